"""Deletion and insertion of photo patches, on a network whose answer is known."""

import pytest
import torch

from zse_model.backbones import BackboneConfig
from zse_model.explanation.base import UnexplainableError
from zse_model.explanation.faithfulness import SHARES, curves, orders
from zse_model.methods import GlobalConfig, ZseSbirConfig, create_method
from zse_model.methods.zse_sbir import ZseSbir

SIZE = 64


@pytest.fixture
def method() -> ZseSbir:
    torch.manual_seed(0)
    backbone = BackboneConfig(name="test_vit")
    built = create_method("zse_sbir", ZseSbirConfig(heads=4, ffn=32), backbone, size=SIZE, classes=2)
    assert isinstance(built, ZseSbir)
    return built.eval()


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.manual_seed(1)
    return (torch.randint(0, 256, (c, SIZE, SIZE), dtype=torch.uint8, generator=generator) for c in (1, 3))  # type: ignore[return-value]


def test_curves_start_and_end_at_the_whole_and_the_empty_picture(method: ZseSbir) -> None:
    sketch, photo = pair()
    order = torch.randperm(16, generator=torch.manual_seed(2))
    found = curves(method, sketch, photo, order)
    empty = photo.float().mean((1, 2)).round().to(torch.uint8)[:, None, None].expand_as(photo)
    third = photo.clone()  # shares of 16 patches: 0.2 is 3 of them
    for patch in order[:3].tolist():
        row, column = divmod(patch, 4)
        third[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = empty[:, :16, :16]
    with torch.no_grad():
        query = method.encode(sketch[None], "sketch")
        photos = method.encode(torch.stack([photo, empty, third]), "photo")
        whole, nothing, without = method.score(query, photos, "rn")[0].tolist()
    # Not to the bit: how a processor sums may depend on a picture's place in its batch.
    assert [float(found.deletion[0]), float(found.insertion[-1])] == pytest.approx([whole, whole], abs=1e-5)
    assert [float(found.deletion[-1]), float(found.insertion[0])] == pytest.approx([nothing, nothing], abs=1e-5)
    assert found.deletion[2] == pytest.approx(without, abs=1e-5)
    assert found.drop(0.2) == pytest.approx(whole - without, abs=1e-5)


def test_what_the_score_depends_on_is_told_from_what_it_does_not(
    method: ZseSbir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A score that reads one corner: an order that begins there beats one that ends there, on both curves."""
    sketch, photo = pair()
    photo[:, :32, :32] = 255
    photo[:, 32:] //= 2

    def corner(images: torch.Tensor, modality: str) -> dict[str, torch.Tensor]:
        return {"embedding": images[:, 0, :32, :32].float().mean((1, 2))[:, None]}

    monkeypatch.setattr(method, "encode", corner)
    monkeypatch.setattr(method, "score", lambda queries, gallery, mode: gallery["embedding"].T)
    first = torch.tensor([0, 1, 4, 5, *(i for i in range(16) if i not in (0, 1, 4, 5))])
    good, bad = curves(method, sketch, photo, first), curves(method, sketch, photo, first.flip(0))
    assert good.deletion_auc < bad.deletion_auc and good.insertion_auc > bad.insertion_auc
    assert good.drop(0.3) > 0 == bad.drop(0.3)
    assert len(good.deletion) == len(SHARES)


def test_orders_hold_every_patch_once_and_controls_are_random(method: ZseSbir) -> None:
    sketch, photo = pair()
    first = orders(method, sketch, photo, torch.manual_seed(0))
    second = orders(method, sketch, photo, torch.manual_seed(1))
    assert set(first) == {"matched", "uniform", "attended"}
    for order in first.values():
        assert order.sort().values.tolist() == list(range(16))
    assert torch.equal(first["matched"], second["matched"])
    assert not torch.equal(first["uniform"], second["uniform"])
    assert set(first["attended"][:8].tolist()) == set(second["attended"][:8].tolist())
    with pytest.raises(ValueError, match="each of the 16 patches once"):
        curves(method, sketch, photo, torch.arange(15))
    other = create_method("global", GlobalConfig(dim=8), BackboneConfig(name="test_resnet"), size=SIZE, classes=2)
    with pytest.raises(UnexplainableError):
        curves(other, sketch, photo, torch.arange(16))
