"""Gathered embeddings of one worker of three, the others made up: the order of ranks, and whose gradient it is."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from zse_model.gather import gathered, gathering

OTHERS = {0: [[1.0, 2.0]], 2: [[5.0, 6.0]]}


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Three, of which this process is the second; the number of them can be changed."""
    count = [3]

    def all_gather(parts: list[torch.Tensor], mine: torch.Tensor) -> None:
        for rank, part in enumerate(parts):
            part.copy_(mine if rank == 1 else torch.tensor(OTHERS[rank]))

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: count[0])
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    # The two others have, between them, these gradients of the three rows.
    monkeypatch.setattr(dist, "all_reduce", lambda x: x.add_(torch.tensor([[7.0, 7.0], [0.5, -2.0], [7.0, 7.0]])))
    return count


def test_embeddings_come_in_the_order_of_ranks_and_gradients_go_to_their_owner_summed(workers: list[int]) -> None:
    x = torch.tensor([[3.0, 4.0]], requires_grad=True)
    with gathering(True):
        everything = gathered(x)
    assert everything.tolist() == [[1, 2], [3, 4], [5, 6]]
    (everything * torch.tensor([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[30.5, 38.0]]


def test_outside_of_gathering_and_of_a_single_worker_an_embedding_is_itself(workers: list[int]) -> None:
    x = torch.tensor([[3.0, 4.0]])
    assert gathered(x) is x
    with gathering(True):
        assert len(gathered(x)) == 3
        with gathering(False):
            assert gathered(x) is x
        assert len(gathered(x)) == 3
        workers[0] = 1
        assert gathered(x) is x
    workers[0] = 3
    with pytest.raises(OSError, match="lost"), gathering(True):
        raise OSError("lost")
    assert gathered(x) is x
