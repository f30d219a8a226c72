"""What the conversions' tests share."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def threads() -> None:
    torch.set_num_threads(1)  # the tensors are tiny: threads would only wait for each other
