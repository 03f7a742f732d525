"""The GPUs that `make run` uses."""

from __future__ import annotations

from deploy.local.gpus import select_gpus


def test_gpus_are_read_from_the_output_of_nvidia_smi() -> None:
    assert select_gpus("0\n1\n", None) == ("0", "1")
    assert select_gpus("", None) == ()
    assert select_gpus("No devices were found\n", None) == ()


def test_cuda_visible_devices_limits_the_gpus() -> None:
    assert select_gpus("0\n1\n2\n", "2, GPU-1f") == ("2", "GPU-1f")
    assert select_gpus("0\n1\n", "-1") == ()


def test_an_empty_cuda_visible_devices_hides_all_gpus() -> None:
    assert select_gpus("0\n1\n", "") == ()


def test_cuda_visible_devices_adds_no_gpu_to_a_machine_without_one() -> None:
    assert select_gpus("", "0") == ()
