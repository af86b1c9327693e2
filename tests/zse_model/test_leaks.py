"""A checkpoint is not tested on a picture or a class that it has seen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zse_model.checkpoint import Checkpoint, picture_key, seen_keys
from zse_model.evaluation.leaks import LeakError, distilled_units, refuse_leaks, refuse_start
from zse_model.split import ZeroShotSplit, imagenet_units_naming
from zse_model.transforms import TransformConfig

# Few first bytes, so that keys meet; signs of both kinds.
HASHES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["00", "7f", "80", "ff"]),
    st.sampled_from(["00" * 7, "ff" * 7]),
    st.just("ab" * 24),
)
SEEN, UNSEEN = ("ant", "bee", "car", "crocodile"), ("dog", "eel")


def split(seen: tuple[str, ...] = SEEN, unseen: tuple[str, ...] = UNSEEN, **changes: Any) -> ZeroShotSplit:
    return ZeroShotSplit(name="s", citation="c", seen=seen, unseen=unseen, **changes)


def trained(on: ZeroShotSplit, pictures: Any = (), config: Any = None) -> Checkpoint:
    network: Any = SimpleNamespace(config=config)
    return Checkpoint("global", network, TransformConfig(), on, seen_keys(pictures), {"run": "r"})


@given(st.binary(min_size=32, max_size=32))
def test_a_key_is_the_first_eight_bytes(digest):
    key = picture_key(digest.hex())
    assert key.to_bytes(8, "big", signed=True) == digest[:8] and -(2**63) <= key < 2**63
    assert int(torch.tensor(key)) == key == picture_key(digest.hex().upper())


@given(st.lists(HASHES), st.lists(HASHES, unique=True))
def test_exactly_the_pictures_that_were_seen_are_refused(seen, tested):
    keys = seen_keys(seen)
    assert keys.dtype == torch.int64 and keys.tolist() == sorted(map(picture_key, set(seen)))
    assert torch.equal(keys, seen_keys(reversed(seen)))
    named = {sha: f"picture {number}." for number, sha in enumerate(tested)}
    found = [name for sha, name in named.items() if sha in seen]
    checkpoint = trained(split(), seen)
    if not found:
        refuse_leaks(checkpoint, split(), named)
        return
    with pytest.raises(LeakError, match=f"^{len(found)} of {len(tested)} test pictures of s were") as error:
        refuse_leaks(checkpoint, split(), named)
    assert [name for name in named.values() if name in str(error.value)] == found[:10]


OTHER = ("cow",)


@pytest.mark.parametrize(
    ("tested", "options", "message"),
    [
        (split(OTHER, ("Bee", "eel")), {}, r"1 unseen classes of s: bee \(seen\) = Bee \(unseen\)\. .* not seen: eel$"),
        (split(OTHER, ("automobile", "alligator")), {}, "2 unseen classes of s: .* not seen: none$"),
        (split(OTHER, ("ant",)), {"verbatim": True}, "1 unseen classes of s: ant"),
        (split(OTHER, ("ant",)), {"selection": True}, "1 unseen classes of s: ant"),
    ],
)
def test_a_class_that_was_seen_or_chosen_on_is_refused(tested, options, message):
    with pytest.raises(LeakError, match=f"^The checkpoint r was trained or chosen on {message}"):
        refuse_leaks(trained(split(pseudo_unseen=("bee",))), tested, **options)


def test_of_many_seen_classes_ten_are_named():
    names = tuple(f"class {i}" for i in range(11))
    with pytest.raises(
        LeakError, match="on 11 unseen classes of s: class 0 .*, class 9 .seen. = class 9 .unseen.. Its"
    ):
        refuse_leaks(trained(split((*names, "ant"))), split(OTHER, names))


def test_an_alias_is_allowed_on_the_own_split_and_verbatim_and_a_choice_on_its_own_classes():
    aliased = split(unseen=("automobile", "eel"))
    refuse_leaks(trained(aliased), aliased)
    refuse_leaks(trained(split()), split(OTHER, ("automobile",)), verbatim=True)
    chosen = split(pseudo_unseen=("bee",))
    refuse_leaks(trained(chosen), chosen.for_selection(), selection=True)


def test_a_training_starts_from_no_checkpoint_that_saw_its_held_out_classes():
    refuse_start(trained(split(pseudo_unseen=("bee",))), split(pseudo_unseen=("bee",)))
    with pytest.raises(LeakError, match=r"trained on the pseudo-unseen classes \['bee'\]\. Start"):
        refuse_start(trained(split()), split(pseudo_unseen=("bee",)))
    with pytest.raises(LeakError, match=r"it has seen \['car', 'crocodile'\], which are no seen classes of s\. Start"):
        refuse_start(trained(split()), split(("ant", "bee"), UNSEEN))
    with pytest.raises(LeakError, match=r"was trained or chosen on 1 unseen classes of s: dog \(seen\) = dog"):
        refuse_start(trained(split(("ant", "dog"), OTHER)), split())


def test_an_alias_of_a_held_out_class_is_a_start_on_its_own_split_alone():
    """A split that has a class and its alias among the seen may draw one of them and train on the other."""
    both = split((*SEEN, "automobile"), pseudo_unseen=("car",))
    refuse_start(trained(both), both)
    with pytest.raises(LeakError, match=r"on the pseudo-unseen classes \['car'\] and it has seen \['automobile'\]"):
        refuse_start(trained(split(("ant", "automobile"))), split(pseudo_unseen=("car",)))


def test_units_that_name_an_unseen_class_are_counted():
    both, eels = imagenet_units_naming(UNSEEN), imagenet_units_naming(["eel"])
    for weight, dropped, count in ((1, both, 0), (1, eels, len({*both} - {*eels})), (1, None, len(both)), (0, None, 0)):
        config = SimpleNamespace(distillation=weight, dropped_units=dropped)
        assert distilled_units(trained(split(), config=config), split()) == count
    assert distilled_units(trained(split(), config=SimpleNamespace()), split()) == 0, "a method that distils nothing"
    assert len(both) > len(eels) > 0
