"""A server's ``/api/info``, canned: a family that runs and one that cannot. A contract test holds it to the real one's
shape."""

from __future__ import annotations

from typing import Any

INFO: dict[str, Any] = {
    "server": {"pid": 11, "started_at": "2026-01-01T00:00:00+00:00", "api": "http://127.0.0.1:11435"},
    "versions": {"tollama": "9.9.9", "python": "3.11.7", "system": "Linux", "ray": "2.60.0"},
    "config": {
        "port": {"value": 11435, "source": "default", "env": "TOLLAMA_PORT"},
        "hf_token": {"value": "[redacted]", "source": "config", "env": "TOLLAMA_HF_TOKEN"},
    },
    "paths": {"home": "/srv/tollama"},
    "environment": {"HTTPS_PROXY": "http://[redacted]@proxy:3128"},
    "registry": {"entries": 2, "families": {"mock": 1, "torch": 1}},
    "models": {
        "installed": [
            {
                "name": "chronos-bolt-small",
                "family": "torch",
                "adapter": "chronos-bolt",
                "source": "amazon/chronos-bolt-small",
                "revision": "0123456789abcdef0123456789abcdef01234567",
                "size_bytes": 191_000_000,
                "installed_at": "2026-01-01T00:00:00+00:00",
                "license": "apache-2.0",
            }
        ],
        "broken": {"bad": "the manifest is not JSON"},
    },
    "families": {
        "mock": {
            "runtime": {
                "installed": True,
                "ready": True,
                "reason": "",
                "repair": "",
                "digest": None,
                "python": "/usr/bin/python3",
            },
            "adapters": ["mock"],
            "answers": True,
            "replicas": [
                {
                    "replica": "mock-77",
                    "pid": 77,
                    "started_at": "2026-01-01T00:00:00+00:00",
                    "device": "cpu",
                    "models": [{"name": "mock", "state": "loaded", "in_use": 1, "memory_mb": 2.0, "vram_mb": 0.0}],
                }
            ],
            "waiting": 3,
            "in_flight": 2,
            "restarts": {"crash": 4},
            "last_death": {"reason": "crash", "model": "mock", "at": "2026-01-02T00:00:00+00:00"},
            "last_error": {"code": "RUNNER_FAILED", "at": "2026-01-02T00:00:00+00:00"},
            "unavailable": None,
        },
        "torch": {
            "runtime": {
                "installed": False,
                "ready": False,
                "reason": "The runtime of family 'torch' is not installed.",
                "repair": "tollama runtime install torch",
                "digest": "abcdef012345abcdef012345",
                "python": "/srv/tollama/runtimes/torch/abcdef012345abcdef012345/bin/python",
            },
            "adapters": ["chronos-bolt"],
            "answers": False,
            "replicas": [],
            "waiting": 0,
            "in_flight": 0,
            "restarts": {},
            "last_death": None,
            "last_error": None,
            "unavailable": "its process failed to start several times",
        },
    },
    "ray": {"dashboard": "http://127.0.0.1:8265"},
}
