"""Families of mock models that share GPUs, or need more than there are."""

from __future__ import annotations

from pathlib import Path

from tollama.families import FamilySpec

MOCK = {"mock": "deployments.adapters.mock:Mock"}
REGISTRY = Path(__file__).with_name("registry.yaml")


def share_a() -> FamilySpec:
    """Half a GPU, with the models a-1 and a-2; its registry has everybody's."""
    return FamilySpec("share-a", MOCK, computes=False, num_gpus=0.5, registry=REGISTRY)


def share_b() -> FamilySpec:
    """Half a GPU."""
    return FamilySpec("share-b", MOCK, computes=False, num_gpus=0.5)


def share_c() -> FamilySpec:
    """Half a GPU."""
    return FamilySpec("share-c", MOCK, computes=False, num_gpus=0.5)


def share_huge() -> FamilySpec:
    """More than a small machine has."""
    return FamilySpec("share-huge", MOCK, computes=False, num_gpus=8)


def share_none() -> FamilySpec:
    """No share of a GPU."""
    return FamilySpec("share-none", MOCK, computes=False)


def share_wide() -> FamilySpec:
    """No share of a GPU either; for several replicas."""
    return FamilySpec("share-wide", MOCK, computes=False)
