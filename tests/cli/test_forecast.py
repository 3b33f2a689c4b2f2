"""``tollama forecast`` and ``run``, each as a process."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.fake_server import Fake, Run


def test_table(fake: Fake, tollama: Run, monthly: Path) -> None:
    done = tollama("forecast", "naive", monthly.name, "--horizon", "2", host=fake.url)
    assert done.returncode == 0, done.stderr
    header, first, second = done.stdout.decode().splitlines()
    assert header.split() == ["id", "timestamp", "mean", "0.1", "0.5", "0.9"]
    assert first.split() == ["passengers", "1951-01-01T00:00:00", "123.0", "119.0", "123.0", "127.0"]
    assert second.split()[1] == "1951-02-01T00:00:00"
    assert done.stderr == b""


def test_as_a_process_in_a_pipe(fake: Fake, process: Run, monthly: Path) -> None:
    done = process("forecast", "naive", "-", "-n", "1", "--format", "csv", host=fake.url, stdin=monthly.read_bytes())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith(b"passengers,1951-01-01T00:00:00,123.0,")
    assert done.stderr == b""


def test_formats(fake: Fake, tollama: Run, monthly: Path, tmp_path: Path) -> None:
    def ask(*more: str) -> bytes:
        done = tollama("forecast", "naive", str(monthly), "-n", "2", *more, host=fake.url)
        assert done.returncode == 0, done.stderr
        return bytes(done.stdout)

    assert ask("--format", "csv").splitlines()[0] == b"id,timestamp,mean,0.1,0.5,0.9"
    assert json.loads(ask("--json"))["forecasts"][0]["mean"] == [123.0, 123.0]
    assert ask("--json") == ask("--format", "json")
    assert list(pd.read_parquet(io.BytesIO(ask("--format", "parquet")))["mean"]) == [123.0, 123.0]
    assert ask("--output", "f.csv") == b""
    assert len(pd.read_csv(tmp_path / "f.csv")) == 2
    ask("-o", "f.parquet")
    assert len(pd.read_parquet(tmp_path / "f.parquet")) == 2
    ask("-o", "f.json")
    assert json.loads((tmp_path / "f.json").read_text())["model"] == "naive"


def test_flags_reach_the_request(fake: Fake, tollama: Run) -> None:
    table = b"shop,day,sales,price\na,2024-01-01,1,5\na,2024-01-02,2,5\na,2024-01-03,,6\n"
    columns = ["--id-column", "shop", "--time-column", "day", "--target-column", "sales", "--known-future", "price"]
    options = ["--option", "seed=3", "--option", "mode=fast", "--timeout", "20", "--keep-alive", "-1", "--freq", "D"]
    done = tollama(
        "forecast", "naive", "-", "-n", "1", "--level", "80,95", *columns, *options, host=fake.url, stdin=table
    )
    assert done.returncode == 0, done.stderr
    sent = fake.forecasts[0]
    assert sent["series"] == [
        {
            "id": "a",
            "target": [1.0, 2.0],
            "timestamps": ["2024-01-01", "2024-01-02"],
            "freq": "D",
            "past_covariates": {"price": [5.0, 5.0]},
            "future_covariates": {"price": [6.0]},
        }
    ]
    assert sent["quantiles"] == [0.025, 0.1, 0.5, 0.9, 0.975]
    assert sent["options"] == {"seed": 3, "mode": "fast"}
    assert (sent["timeout"], sent["keep_alive"]) == (20.0, "-1")


def test_run_takes_a_request_and_flags_go_before_it(fake: Fake, tollama: Run, tmp_path: Path) -> None:
    series = [{"id": "a", "target": [1, 2, 3], "start": "2024-01-01", "freq": "D"}]
    request = {"model": "other", "horizon": 5, "quantiles": [0.5], "series": series}
    (tmp_path / "request.json").write_text(json.dumps(request))
    done = tollama("run", "naive", "--input", "request.json", "-n", "2", "--json", "--plot", "a.png", host=fake.url)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["model"] == "naive"
    assert len(answer["forecasts"][0]["mean"]) == 2
    assert list(answer["forecasts"][0]["quantiles"]) == ["0.5"]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_flags_that_are_of_tables_do_not_go_with_a_request(fake: Fake, tollama: Run) -> None:
    series = [{"id": "a", "target": [1, 2, 3], "start": "2024-01-01", "freq": "D"}]
    request = json.dumps({"horizon": 1, "series": series}).encode()
    for flag in ("--freq", "--known-future", "--id-column", "--time-column", "--target-column"):
        done = tollama("forecast", "naive", "-", flag, "D", host=fake.url, stdin=request)
        assert (done.returncode, flag in done.stderr.decode()) == (2, True)
    assert fake.forecasts == []


@pytest.mark.parametrize("none", ["", "none"])
def test_no_quantiles(none: str, fake: Fake, tollama: Run, monthly: Path) -> None:
    done = tollama("forecast", "naive", str(monthly), "-n", "1", "--quantiles", none, "--format", "csv", host=fake.url)
    assert fake.forecasts[0]["quantiles"] == []
    assert done.stdout.splitlines()[0] == b"id,timestamp,mean"


def test_stdin_is_read_without_a_dash(fake: Fake, tollama: Run) -> None:
    done = tollama("forecast", "naive", "-n", "1", host=fake.url, stdin=b"ds,y\n2024-01-01,1\n2024-01-02,2\n")
    assert done.returncode == 0, done.stderr
    assert fake.forecasts[0]["series"][0]["id"] == "y"


def test_plot_in_the_terminal(fake: Fake, tollama: Run, monthly: Path) -> None:
    shown = tollama("forecast", "naive", "--plot", str(monthly), "-n", "6", host=fake.url).stdout.decode()
    assert "passengers (naive)" in shown
    assert "history" in shown
    assert "80 %" in shown
    beside = tollama("forecast", "naive", str(monthly), "-n", "6", "--json", "--plot", host=fake.url)
    json.loads(beside.stdout)
    assert "passengers (naive)" in beside.stderr.decode()


def test_plot_to_a_kind_of_file_that_is_no_picture(fake: Fake, tollama: Run, monthly: Path) -> None:
    done = tollama("forecast", "naive", str(monthly), "-n", "6", "--plot=a.xyz", host=fake.url)
    assert done.returncode == 1
    assert "Hint: Use .png, .svg or .pdf." in done.stderr.decode()


def test_a_missing_model_is_pulled_first(fake: Fake, tollama: Run, monthly: Path) -> None:
    done = tollama("forecast", "small", str(monthly), "-n", "1", "--no-pull", host=fake.url)
    assert (done.returncode, fake.pulls) == (1, [])
    assert done.stderr.decode() == "Error: The model is not installed.\nHint: tollama pull small\n"
    done = tollama("forecast", "small", str(monthly), "-n", "1", host=fake.url)
    assert done.returncode == 0, done.stderr
    assert "success" in done.stderr.decode()
    assert "small" in fake.installed


def test_a_gated_model_needs_the_flag(fake: Fake, tollama: Run, monthly: Path) -> None:
    done = tollama("forecast", "gated", str(monthly), "-n", "1", host=fake.url)
    assert done.returncode == 1
    assert done.stderr.decode().endswith("Hint: tollama pull gated --accept-license\n")
    assert tollama("forecast", "gated", str(monthly), "-n", "1", "--accept-license", host=fake.url).returncode == 0


def test_warnings_go_to_stderr(fake: Fake, tollama: Run) -> None:
    table = b"ds,y\n2024-01-01,1\n2024-01-02,\n2024-01-03,2\n"
    done = tollama("forecast", "naive", "-n", "1", host=fake.url, stdin=table)
    assert done.stderr.decode() == "Warning: Series 'y' has missing values.\n"


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "said"),
    [
        (["naive"], b"ds,y\n2024-01-01,1\n", 2, "--horizon is missing"),
        (["naive", "-n", "0"], b"", 2, "--horizon"),
        (["naive", "-n", "1", "--level", "80", "--quantiles", "0.5"], b"", 2, "exclude"),
        (["naive", "-n", "1", "--level", "200"], b"ds,y\n2024-01-01,1\n", 2, "--level"),
        (["naive", "-n", "1", "--level", ""], b"ds,y\n2024-01-01,1\n", 2, "--level"),
        (["naive", "-n", "1", "--option", "seed"], b"ds,y\n2024-01-01,1\n", 2, "NAME=VALUE"),
        (["naive", "-n", "1", "--format", "xml"], b"", 2, "--format"),
        (["naive", "-n", "1"], b"", 1, "Error: The input cannot be read as CSV"),
        (["naive", "-n", "1"], b"{", 1, "Error: The input cannot be read as JSON"),
        (["naive", "-n", "1"], b"a,b\n1,2\n", 1, "Hint: Name it with --time-column"),
        (["naive", "-n", "1", "nowhere.csv"], b"", 1, "Error: No such file or directory: nowhere.csv"),
        (["nothing", "-n", "1"], b"ds,y\n2024-01-01,1\n", 1, "Hint: Did you mean small?"),
    ],
)
def test_failures(arguments: list[str], stdin: bytes, code: int, said: str, fake: Fake, tollama: Run) -> None:
    done = tollama("forecast", *arguments, host=fake.url, stdin=stdin)
    assert done.returncode == code
    assert said in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert done.stdout == b""
