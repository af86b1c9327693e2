"""Zero-shot splits, aliases of class names, and the ImageNet units that name a class.

Left out: the classes of each data set, and the published lists (`pipelines/datasets/lists/splits`).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from zse_model.errors import ZseError

FEWEST = 10
"""The fewest classes (for instance retrieval: photos) for which significance is claimed. An interval resamples classes,
and few classes give false findings (`python -m benchmarks alarms` counts them by the number of classes)."""
MANY = 40
"""From so many seen classes on, at least FEWEST are pseudo-unseen, for any share above 0."""

# Tables in normalised names, reviewed by hand over the class lists of Sketchy, TU-Berlin, QuickDraw and Caltech-101.
# Spaces and plurals need no entry (`hotdog`, `headphones`). ALIASES and KINDS have no entry for pairs of words whose
# pictures differ: Sketchy's bears have no panda, its fans no ceiling fan, its fish no shark or ray, its bats fly. They
# have none for a compound and a word of it (`polar bear`) either: `same_thing` finds those, except for `APART`.

# Names of one group mean the same thing, or pictures of one are filed under another.
ALIASES: tuple[tuple[str, ...], ...] = (
    ("airplane", "aeroplane"),
    ("ape", "monkey"),  # one word in everyday speech, drawn alike
    ("bear", "bear animal"),
    ("bicycle", "bike"),
    ("bookshelf", "bookcase"),
    ("car", "car sedan", "car side", "automobile"),
    ("couch", "sofa"),
    ("crocodilian", "crocodile", "alligator"),
    ("donut", "doughnut"),
    ("eiffel tower", "the eiffel tower"),
    ("eyeglasses", "glasses", "spectacles"),
    ("flower", "flower with stem", "sunflower"),
    ("flying saucer", "ufo"),
    ("hamburger", "burger", "cheeseburger"),
    ("head", "face", "smiley face"),  # a drawn head is a face
    ("hurricane", "tornado"),  # Quick, Draw!'s hurricanes are drawn as funnels
    ("jack o lantern", "pumpkin"),  # the one is a carved other
    ("light bulb", "bulb"),
    ("motorcycle", "motorbike"),
    ("mouse", "mouse animal"),
    ("pigeon", "songbird", "bird", "standing bird", "flying bird"),  # small birds that no list tells apart
    ("pipe for smoking", "pipe"),
    ("pistol", "revolver", "handgun"),
    ("potted plant", "house plant"),
    ("purse", "handbag"),
    ("racket", "racquet", "tennis racket", "tennis racquet"),
    ("rhinoceros", "rhino"),
    ("rocket", "space shuttle"),  # photos of rockets are in part shuttle launches
    ("rollerblades", "rollerskates"),
    ("sailboat", "ketch"),
    ("sea turtle", "hawksbill"),
    ("streetlight", "street lamp"),
    ("suitcase", "briefcase"),
    ("telephone", "phone"),
    ("tire", "wheel", "car wheel"),
    ("trousers", "pants"),
    ("tv", "television"),
    ("wristwatch", "watch"),
)

# Key: a class that contains each class of the value. The classes of a value need not be related.
KINDS: dict[str, tuple[str, ...]] = {
    "axe": ("hatchet",),
    "bird": ("chicken", "duck", "flamingo", "owl", "parrot", "penguin", "rooster", "seagull", "swan", "wading bird"),
    "bus": ("school bus",),
    "cake": ("birthday cake",),
    "car": ("police car", "race car", "suv"),
    "chair": ("armchair", "windsor chair"),
    "chicken": ("rooster", "hen"),
    "clock": ("alarm clock",),
    "computer": ("laptop",),
    "crab": ("hermit crab",),  # no true crab, but called one
    "cup": ("coffee cup", "mug", "beer mug", "teacup"),
    "dog": ("dalmatian",),
    "guitar": ("electric guitar",),
    "house": ("barn", "cabin"),
    "lamp": ("floor lamp", "table lamp"),
    "mountain": ("volcano",),
    "mug": ("beer mug", "coffee cup"),
    "piano": ("grand piano",),
    "shoe": ("flip flops",),
    "ship": ("cruise ship", "aircraft carrier"),
    "standing bird": ("flamingo", "seagull", "wading bird"),
    "flying bird": ("seagull",),
    "telephone": ("cell phone",),
    "tree": ("palm tree",),
    "truck": ("firetruck", "pickup truck"),
    "turtle": ("sea turtle",),
    "wading bird": ("flamingo",),
}

# Compounds -> their words that the pictures do not show. Reviewed as above, then extended by frequent compounds.
APART: dict[str, tuple[str, ...]] = {
    "baseball bat": ("baseball", "bat"),
    "bottle opener": ("bottle",),
    "ceiling fan": ("fan",),
    "chair test": ("chair",),  # of QMUL: other products
    "shoe test": ("shoe",),
    "computer mouse": ("computer", "mouse"),
    "cougar face": ("face",),
    "crocodile head": ("head",),
    "flamingo head": ("head",),
    "door handle": ("door",),
    "garden hose": ("garden",),
    "head phones": ("head", "phones"),
    "hot dog": ("dog",),
    "house plant": ("house",),
    "jack o lantern": ("lantern",),
    "race car": ("car",),  # no sedan; of cars it is one
    "satellite dish": ("satellite",),
    "sea horse": ("horse",),
    "see saw": ("saw",),
    "teddy bear": ("bear",),
    "wading bird": ("bird",),  # no songbird; of birds it is one
    # not in those lists
    **{f"{animal} bear": ("bear",) for animal in ("panda", "koala", "gummy")},
    **{f"sea {thing}": (thing,) for thing in ("lion", "star", "cucumber", "dragon")},
    **{f"{thing} fish": (thing,) for thing in ("cat", "clown", "lion", "star", "sword", "zebra")},
    **{f"{thing} house": (thing, "house") for thing in ("bird", "dog", "green", "light", "tree")},
    "alarm clock": ("alarm",),
    "apple pie": ("apple",),
    "bird bath": ("bird", "bath"),
    "bird cage": ("bird",),
    "book shelf": ("book",),
    "butter fly": ("butter", "fly"),
    "coffee pot": ("coffee",),
    "cow boy": ("cow", "boy"),
    "dragon fly": ("dragon", "fly"),
    "dragon fruit": ("dragon",),
    "egg plant": ("egg", "plant"),
    "eye glasses": ("eye",),
    "fire fly": ("fire", "fly"),
    "fire hydrant": ("fire",),
    "fire place": ("fire",),
    "fire truck": ("fire",),
    "flower pot": ("flower",),
    "flying fox": ("fox",),
    "foot ball": ("foot",),
    "french horn": ("french",),
    "guinea pig": ("pig",),
    "horse fly": ("horse",),
    "horse shoe": ("horse", "shoe"),
    "ice cream": ("ice", "cream"),
    "jelly fish": ("jelly",),
    "key board": ("key", "board"),
    "lady bug": ("lady",),
    "light bulb": ("light",),
    "mail box": ("mail", "box"),
    "mouse pad": ("mouse",),
    "mouse trap": ("mouse",),
    "paper clip": ("paper",),
    "prairie dog": ("dog",),
    "red panda": ("panda",),
    "rocking horse": ("horse",),
    "roller coaster": ("roller", "coaster"),
    "snow man": ("snow", "man"),
    "stop sign": ("stop",),
    "straw berry": ("straw",),
    "sun flower": ("sun",),
    "sun glasses": ("sun",),
    "tea cup": ("tea",),
    "tea pot": ("tea", "pot"),
    "tiger lily": ("tiger",),
    "tooth brush": ("tooth",),
    "tooth paste": ("tooth",),
    "water melon": ("water",),
    "wheel chair": ("wheel", "chair"),
    "zebra crossing": ("zebra",),
}

# Parts of animals: a picture of a part shows the animal.
_PARTS = frozenset("body claw ear eye face foot head horn leg mouth nose paw skull snout tail wing".split())

# Words of ImageNet's labels that name a class without containing its name. From reading the 1,000 labels.
_IMAGENET_WORDS: dict[str, tuple[str, ...]] = {
    "airplane": ("airliner", "warplane", "military plane"),
    "ape": ("chimpanzee", "gibbon", "gorilla", "orangutan", "siamang"),
    "beach": ("lakeside", "sandbar", "seashore"),
    "bear": ("panda",),
    "bottle opener": ("corkscrew", "can opener"),
    "bread": ("bagel", "dough", "french loaf"),
    "bridge": ("viaduct",),
    "cabin": ("boathouse", "mobile home"),
    "cabinet": ("chiffonier", "wardrobe"),
    "chicken": ("cock",),
    "couch": ("day bed",),
    "cow": ("ox", "oxcart", "water buffalo", "cattle"),
    "cup": ("espresso", "goblet"),
    "dolphin": ("killer whale",),
    "duck": ("drake", "merganser"),
    "eyeglasses": ("sunglass",),
    "feather": ("quill",),
    "fish": ("shark", "ray"),
    "frying pan": ("skillet", "wok"),
    "hat": ("bonnet", "sombrero"),
    "hot air balloon": ("balloon",),
    "laptop": ("notebook computer",),
    "lighter": ("igniter",),
    "motorcycle": ("moped", "motor scooter"),
    "mushroom": ("agaric", "bolete", "coral fungus", "earthstar", "gyromitra", "hen of the woods", "stinkhorn"),
    "parrot": ("african grey", "cockatoo", "lorikeet", "macaw"),
    "pear": ("prickly pear",),
    "purse": ("wallet",),
    "ray": ("stingray",),
    "sailboat": ("catamaran", "schooner", "trimaran", "yawl"),
    "saw": ("chainsaw",),
    "seagull": ("gull", "albatross"),
    "shoe": ("clog", "cowboy boot", "loafer", "sandal"),
    "snail": ("conch", "slug"),
    "snake": ("boa constrictor", "cobra", "mamba", "python", "rattlesnake", "sidewinder", "viper"),
    "songbird": (
        *("brambling", "bulbul", "bunting", "chickadee", "finch", "goldfinch", "jay", "junco", "magpie", "robin"),
        "water ouzel",
    ),
    "spoon": ("ladle",),
    "streetlight": ("spotlight",),
    "sword": ("scabbard",),
    "t shirt": ("jersey", "sweatshirt"),
    "table": ("desk",),
    "teacup": ("cup", "coffee mug"),  # the unit is broader than the class, and includes it
    "telephone": ("cellphone", "mobile phone", "pay phone", "dial phone"),
    "tiger": ("tiger cat",),
    "tree": ("acorn", "buckeye"),
    "trumpet": ("cornet",),
    "wading bird": ("bittern", "crane", "egret", "heron", "limpkin", "spoonbill", "stork"),
    "windmill": ("wind turbine",),
    "wine bottle": ("red wine",),
}


@cache
def normalise_name(name: str) -> str:
    """One form per class name: `Hot-air_balloon` → "hot air balloon", `car_(sedan)` → "car sedan".

    Unicode NFKC and case folded. Apostrophes are removed; a run of spaces and punctuation becomes one space. Letters,
    marks, numbers and symbols of every script stay: मेला is not माला, C++ is not C, 🐱 is not 🐶. Of punctuation
    `#%&*@!?` stay, a minus before a number or after the last word (-1, A-), a dot before a word (.NET). May return "".
    """
    text = _APOSTROPHES.sub("", unicodedata.normalize("NFC", name))
    text = unicodedata.normalize("NFKC", text).casefold().replace("i\u0307", "i")  # the last of Turkish İ
    text = _IGNORED.sub("", _APOSTROPHES.sub("", unicodedata.normalize("NFKC", text))).strip()
    words = re.sub(r"[\W_]", _without_punctuation, text).strip(" \u200c\u200d").split()
    return unicodedata.normalize("NFKC", " ".join(words))


# People, keyboards and file systems interchange these.
_APOSTROPHES = re.compile("['‘’ʻ‛`´ʹʼ′‵׳]")
# Invisible characters that change no word: variation selectors, soft hyphens, marks of direction and others. Not the
# joiners U+200C and U+200D, by which Persian words and emoji differ, and not tags, by which flags differ.
_IGNORED = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\ufe00-\ufe0f\ufeff\ufff0-\ufff8\U000e0100-\U000e01ef]"
)
_SIGNS = "#%&*@!?\u200c\u200d"  # not letters, but part of a name


def _without_punctuation(match: re.Match[str]) -> str:
    """The character if it is part of a name, else a space."""
    sign, before, after = match[0], match.string[: match.start()][-1:], match.string[match.end() :][:1]
    meant = {
        "-": after.isdecimal() and not _in_word(before) or not after and _in_word(before),
        ".": after.isalpha() and not _in_word(before) and before != ".",
    }
    return sign if _in_word(sign) or sign in _SIGNS or meant.get(sign, False) else " "


def _in_word(character: str) -> bool:
    """Whether a character is a letter, mark, number, symbol or tag, or not assigned by Unicode."""
    category = unicodedata.category(character) if character not in ("", *_SIGNS) else "P"
    return category != "Cc" and category[0] not in "PZ"


def same_thing(a: str, b: str) -> bool:
    """Whether two class names mean the same thing, or one includes the other: a model that saw one has seen both.

    Compared by `ALIASES` and `KINDS`, and English names by their words: a compound is each of its words (a polar bear
    is a bear, a crocodile head shows a crocodile), except those in `APART`. Over-inclusive on purpose: a leak is not
    noticed. Symmetric, not transitive: a songbird is a bird and so is an owl. Ignores spelling, spaces and plurals.
    """
    one, other = _key(a), _key(b)
    return one == other or other in _relatives().get(one, ()) or other in _inside(a) or one in _inside(b)


def conflicts(seen: Iterable[str], unseen: Iterable[str]) -> list[tuple[str, str]]:
    """The pairs (seen, unseen) that are the same thing, in the order given; empty if nothing leaks."""
    unseen = tuple(unseen)
    return [(a, b) for a in seen for b in unseen if same_thing(a, b)]


@cache
def _key(name: str) -> str:
    return _singular(normalise_name(name))


# Words that end in s and are not plurals.
_NO_PLURALS = frozenset(
    "atlas axis basis canvas chaos chassis christmas chrysalis clematis cosmos debris eyeglasses gas ibis iris "
    "lens mantis news pancreas pelvis rhinoceros series species sunglasses tennis thermos trellis".split()
)
# Map plurals, and singulars that look like them, to one form. Applied in this order, at the end of a word or compound.
_ENDS = [
    (re.compile(f"(?:{end})$"), single)
    for end, single in (
        *(("mice", "mouse"), ("geese", "goose"), ("feet", "foot"), ("teeth", "tooth"), ("children", "child")),
        *(("people", "person"), ("oxen", "ox"), ("^dice", "die"), ("quizzes", "quiz"), ("buffaloes", "buffalo")),
        *(("^busses", "bus"), (r"(^|wood)lice", r"\1louse"), (r"(matr|append)ices", r"\1ix")),
        (r"(eau|ibou)[sx]", r"\1"),
        (r"(cact|fung|octop|hippopotam|platyp|narciss|gladiol|papyr|sarcophag|abac|nucle|bacill)i", r"\1us"),
        (r"(^em|^gn|^men|^tut|kud|zeb|gur)us", r"\1u"),
        (r"(kni|wi|^li)ves", r"\1fe"),
        (r"(wol|lea|cal|hal|shel|^el|sel|thie|loa|scar|hoo|whar|dwar|shea)ves", r"\1f"),
        (r"(?<=\w\w)ies?", "y"),  # butterflies, cookies and so cookie; not pie
        (r"(?<=\w\w)(?<![su])s", ""),  # not glass, not bus
        (r"(?<=\w\w)si", "s"),  # oasis, of which the s is gone, and oases
        (r"(?<=\w\w)ae", "a"),  # larvae, antennae
        ("men", "man"),  # women, firemen, and so specimen
        (r"(?<=[sxz])e|(?<=[cs]h)e", ""),  # glasses, boxes, watches, and so horse and axe
        (r"(?<=\w\w)oe", "o"),  # potatoes, and so shoe; not toe
    )
]


@cache
def _singular(name: str) -> str:
    """The common form, without spaces, of a normalised English name and its plural. Not always a word.

    Glasses alone are eyeglasses; wine glasses are more than one wine glass.
    """
    word, last = name.replace(" ", ""), name.rpartition(" ")[2]
    for end, single in () if last in _NO_PLURALS or name == "glasses" else _ENDS:
        word = end.sub(single, word)
    return word


@cache
def _inside(name: str) -> frozenset[str]:
    """The keys of the words of a compound that its pictures show, of their aliases, and of the kinds they belong to."""
    words = normalise_name(name).split()
    runs = [" ".join(words[i : i + n]) for n in range(1, len(words)) for i in range(len(words) - n + 1)]
    keys = {_singular(run) for run in runs} - _apart().get(_key(name), set())
    return frozenset(keys.union(*(_wider().get(key, ()) for key in keys)))


@cache
def _apart() -> dict[str, set[str]]:
    return {_key(whole): set(map(_key, words)) for whole, words in APART.items()}


@cache
def _wider() -> dict[str, set[str]]:
    """Key -> the keys of its aliases and of the kinds it belongs to."""
    wider: dict[str, set[str]] = {}
    pairs = [(a, b) for group in ALIASES for a in group for b in group]
    for a, b in pairs + [(kind, whole) for whole, kinds in KINDS.items() for kind in kinds]:
        wider.setdefault(_key(a), set()).add(_key(b))
    return wider


@cache
def _relatives() -> dict[str, set[str]]:
    """Key -> the keys of `_wider` and of the kinds that it contains."""
    relatives = {key: set(others) for key, others in _wider().items()}
    for key, others in _wider().items():
        for other in others:
            relatives.setdefault(other, set()).add(key)
    return relatives


@dataclass(frozen=True, kw_only=True)
class ZeroShotSplit:
    """The classes, and the instances of classes, that a training may see.

    pseudo_unseen: seen classes kept out of training, for selection.
    held_back: share of the seen classes' instances kept out of training, for the generalised and seen-class settings.

    A split for tests only may have no seen classes. Raises ZseError for an empty or duplicate class, a class that is
    both seen and unseen, an unknown pseudo-unseen class, no class to train or to test on, and held_back outside [0, 1).
    Aliases across seen and unseen (`conflicts`) are allowed: published lists have them and stay verbatim.
    """

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    citation: str
    seen: tuple[str, ...]
    unseen: tuple[str, ...]
    pseudo_unseen: tuple[str, ...] = ()
    held_back: float = 0.1

    def __post_init__(self) -> None:
        for field in ("seen", "unseen", "pseudo_unseen"):
            classes = getattr(self, field)
            if not isinstance(classes, tuple):
                raise ZseError(f"Split {self.name!r}: {field} is a {type(classes).__name__}, not a tuple of names")
            names = [normalise_name(c) for c in classes]
            if doubled := [c for c, n in zip(classes, names, strict=True) if not n or names.count(n) > 1]:
                raise ZseError(f"Split {self.name!r}: empty or duplicate classes in {field}: {doubled}")
        if not self.unseen:
            raise ZseError(f"Split {self.name!r} has no unseen classes: there is nothing to test on")
        seen = {normalise_name(c) for c in self.seen}
        if both := [c for c in self.unseen if normalise_name(c) in seen]:
            raise ZseError(f"Split {self.name!r}: classes are both seen and unseen: {both}")
        if unknown := sorted(set(self.pseudo_unseen) - set(self.seen)):
            raise ZseError(f"Split {self.name!r}: pseudo_unseen classes are not among the seen: {unknown}")
        if self.seen and len(self.pseudo_unseen) == len(self.seen):
            raise ZseError(f"Split {self.name!r}: all {len(self.seen)} seen classes are pseudo_unseen: none to train")
        if not 0 <= self.held_back < 1:
            raise ZseError(f"Split {self.name!r}: held_back is {self.held_back}, allowed are shares in [0, 1)")

    @property
    def training(self) -> tuple[str, ...]:
        """The seen classes that training may use, in the order of `seen`."""
        return tuple(c for c in self.seen if c not in self.pseudo_unseen)

    def is_held_back(self, instance_id: str) -> bool:
        """Whether this instance of a seen class is kept out of training: a function of its id alone."""
        return int(hashlib.sha256(instance_id.encode()).hexdigest()[:16], 16) < self.held_back * 2**64

    def with_pseudo_unseen(self, share: float, seed: int) -> ZeroShotSplit:
        """This split with new pseudo-unseen classes, a share of the seen ones, drawn by `draw_classes`.

        share: 0..1 (1 excluded), 0 = none. With MANY or more seen classes at least FEWEST are drawn: with fewer no
        difference is significant. Raises: ZseError as `draw_classes`.
        """
        count = round(share * len(self.seen))
        if share and len(self.seen) >= MANY:
            count = max(count, FEWEST)
        asked = f"pseudo_unseen {share:g} asks for {count} of the seen"
        return replace(self, pseudo_unseen=draw_classes(self.seen, count, seed, asked) if count else ())

    def for_selection(self) -> ZeroShotSplit:
        """The split that tests on the pseudo-unseen classes, for selection. Raises ZseError if there are none."""
        if not self.pseudo_unseen:
            raise ZseError(
                f"Split {self.name!r} has no pseudo-unseen classes. Raise dataset.pseudo_unseen and train again"
            )
        name = f"{self.name}-selection"
        return replace(self, name=name, seen=self.training, unseen=self.pseudo_unseen, pseudo_unseen=())

    @property
    def digest(self) -> str:
        """sha256 (hex) of `to_json`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical: the same split is the same text."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ZeroShotSplit:
        """The inverse of `to_json`. Raises ZseError for any other JSON, ValueError for text that is not JSON."""
        fields: Any = json.loads(text)
        if not isinstance(fields, dict):
            raise ZseError(f"A split is a JSON object, not {type(fields).__name__}")
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        try:
            return cls(**fields)
        except TypeError as error:  # a missing or unknown field, named in Python's message
            raise ZseError(f"Not a split: {error}") from error


def draw_classes(classes: Iterable[str], count: int, seed: int, asked: str = "") -> tuple[str, ...]:
    """Draw `count` of the classes. Returns them sorted.

    The draw depends on the set of classes and the seed, not on order and spelling. A class with an alias among the
    others is not drawn (turtle beside sea turtle): it would not be unseen. asked: start of the error message.
    Raises ZseError for fewer than 1, all classes, or more than there are without an alias.
    """
    classes = tuple(classes)
    apart = [c for c in classes if not any(same_thing(c, other) for other in classes if other != c)]
    if not 1 <= count <= min(len(apart), len(classes) - 1):
        raise ZseError(
            f"{asked or f'A draw asks for {count}'} classes, {_cannot_draw(count, len(classes), len(apart))}"
        )
    drawn = sorted(apart, key=lambda c: hashlib.sha256(f"{seed}/{normalise_name(c)}".encode()).digest())
    return tuple(sorted(drawn[:count]))


def _cannot_draw(count: int, there: int, apart: int) -> str:
    """Why `count` classes cannot be drawn, and how many can. `apart`: classes that have no alias among the others."""
    aliases = f", and {there - apart} of these have an alias among the others, so that they cannot be unseen"
    most = min(apart, there - 1)
    fix = f"Use a {'smaller' if count > most else 'larger'} number, from 1 to {most}" if most > 0 else "Add classes"
    return f"but the data has {there}{aliases if apart < there else ''}. {fix}"


def imagenet_units_naming(classes: Iterable[str]) -> list[int]:
    """The ImageNet-1k units (indices 0..999, ascending) whose label or definition mentions one of the classes.

    For distillation without leaks. Over-inclusive on purpose: a dropped unit costs less than a leaked class. Aliases of
    a class, its kinds and a reviewed supplement count as mentions. Spelling is compared as by `same_thing`. Labels and
    definitions are those of WordNet, from timm's `ImageNetInfo`.
    """
    keys = set().union(*(_mentions(name) for name in classes))
    return [unit for unit, phrases in enumerate(_imagenet_phrases()) if not keys.isdisjoint(phrases)]


def _mentions(name: str) -> set[str]:
    """The keys of all names that mention a class: its name, aliases, their kinds, and words of ImageNet's labels."""
    words = normalise_name(name).split()
    parts = set(map(_singular, _PARTS))
    while words and _singular(words[-1]) in parts:
        words.pop()
    names = {_key(name), _singular(" ".join(words))} - {""}
    names |= {_key(b) for group in ALIASES if names & set(map(_key, group)) for b in group}
    for table in (KINDS, KINDS, _IMAGENET_WORDS):  # kinds have kinds: a bird contains a chicken contains a rooster
        names |= {_key(word) for whole, words in table.items() if _key(whole) in names for word in words}
    return names


@cache
def _imagenet_phrases() -> list[frozenset[str]]:
    """The keys of all phrases of up to four words, per unit."""
    from timm.data.imagenet_info import (
        ImageNetInfo,
    )  # here: it imports all of timm's data code, which splits do not need

    info = ImageNetInfo("imagenet-1k")
    phrases = []
    for unit in range(info.num_classes()):
        words = normalise_name(info.index_to_description(unit, detailed=True)).split()
        runs = (" ".join(words[i : i + n]) for n in range(1, 5) for i in range(len(words)))
        phrases.append(frozenset(map(_singular, runs)))
    return phrases
