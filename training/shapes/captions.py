"""Captions of scenes: many ways to say the same thing, in a closed lower-case vocabulary.

A caption states colour, shape, motion and background of what it names (a few templates leave the
background out); the captions of still images have no motion. `{x}`, `{bg}` and `{on}` in a
template are the objects, the background's name and a phrase such as "on a black background".
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from .scene import Scene, SceneObject, combinations, sample_scene

COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "red", "bright red", "scarlet"),
    "green": ("green", "green", "bright green", "lime green"),
    "blue": ("blue", "blue", "bright blue", "royal blue"),
    "yellow": ("yellow", "yellow", "bright yellow", "lemon yellow"),
    "purple": ("purple", "purple", "violet", "magenta"),
    "orange": ("orange", "orange", "bright orange", "tangerine"),
    "cyan": ("cyan", "cyan", "turquoise", "aqua"),
    "white": ("white", "white", "bright white", "snow white"),
}
SHAPE_WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "circle", "disc", "ball", "dot"),
    "square": ("square", "square", "box", "block"),
    "triangle": ("triangle", "triangle", "triangle shape"),
    "cross": ("cross", "cross", "plus", "plus sign"),
}
BACKGROUND_WORDS: dict[str, tuple[str, ...]] = {
    "black": ("black", "black", "plain black"),
    "gray": ("gray", "grey", "plain gray"),
    "navy": ("navy", "navy blue", "dark blue"),
    "maroon": ("maroon", "maroon", "dark red"),
    "dark green": ("dark green", "dark green", "forest green"),
    "beige": ("beige", "tan", "sand colored"),
}
#: (third person, participle) of every motion.
MOTION_WORDS: dict[str, tuple[tuple[str, str], ...]] = {
    "left": (
        ("moves left", "moving left"),
        ("moves to the left", "moving to the left"),
        ("slides left", "sliding left"),
        ("travels to the left", "traveling to the left"),
        ("goes from right to left", "going from right to left"),
        ("glides leftward", "gliding leftward"),
        ("drifts to the left side", "drifting to the left side"),
        ("heads left", "heading left"),
    ),
    "right": (
        ("moves right", "moving right"),
        ("moves to the right", "moving to the right"),
        ("slides right", "sliding right"),
        ("travels to the right", "traveling to the right"),
        ("goes from left to right", "going from left to right"),
        ("glides rightward", "gliding rightward"),
        ("drifts to the right side", "drifting to the right side"),
        ("heads right", "heading right"),
    ),
    "up": (
        ("moves up", "moving up"),
        ("moves upward", "moving upward"),
        ("rises", "rising"),
        ("slides up", "sliding up"),
        ("climbs to the top", "climbing to the top"),
        ("floats up", "floating up"),
        ("goes from bottom to top", "going from bottom to top"),
    ),
    "down": (
        ("moves down", "moving down"),
        ("moves downward", "moving downward"),
        ("falls", "falling"),
        ("slides down", "sliding down"),
        ("sinks to the bottom", "sinking to the bottom"),
        ("drops down", "dropping down"),
        ("goes from top to bottom", "going from top to bottom"),
    ),
    "bounce": (
        ("bounces", "bouncing"),
        ("bounces up and down", "bouncing up and down"),
        ("hops up and down", "hopping up and down"),
        ("jumps up and down", "jumping up and down"),
        ("keeps bouncing", "bouncing again and again"),
    ),
    "orbit": (
        ("orbits the center", "orbiting the center"),
        ("moves in a circle", "moving in a circle"),
        ("circles around the middle", "circling around the middle"),
        ("goes around in a loop", "going around in a loop"),
        ("travels along a ring", "traveling along a ring"),
    ),
    "grow": (
        ("grows", "growing"),
        ("grows bigger", "growing bigger"),
        ("gets larger", "getting larger"),
        ("expands", "expanding"),
        ("becomes bigger and bigger", "becoming bigger and bigger"),
        ("swells", "swelling"),
    ),
    "spin": (
        ("spins", "spinning"),
        ("spins in place", "spinning in place"),
        ("rotates", "rotating"),
        ("rotates on the spot", "rotating on the spot"),
        ("turns around itself", "turning around itself"),
        ("twirls", "twirling"),
    ),
}
ON = (
    "on a {bg} background",
    "on a {bg} background",
    "over a {bg} background",
    "against a {bg} background",
    "in front of a {bg} background",
    "against a {bg} backdrop",
    "on a {bg} surface",
    "on {bg}",
)
#: {x} stands for objects with a finite verb ("a red square moves left").
FINITE = (
    "{x} {on}",
    "{x} {on}.",
    "{on}, {x}",
    "{x}, the background is {bg}",
    "{x}. the background is {bg}.",
    "{x} while the background stays {bg}",
    "in this clip {x} {on}",
    "{x} {on} in this short video",
    "{bg} background: {x}",
    "we see how {x} {on}",
)
#: {x} stands for objects with a participle ("a red square moving left").
PARTICIPLE = (
    "{x} {on}",
    "{x}, {on}",
    "{x}, {bg} background",
    "a video of {x} {on}",
    "a short clip of {x} {on}",
    "an animation of {x} {on}",
    "there is {x} {on}",
    "the video shows {x} {on}",
    "a simple scene with {x} {on}",
    "{on} there is {x}",
    "an animation with a {bg} background and {x}",
    "{bg} backdrop, {x}",
)
NO_BACKGROUND = ("{x}", "a video of {x}", "an animation of {x}")
#: {x} stands for objects at rest ("a red square").
STILL = (
    "{x} {on}",
    "{x}, {bg} background",
    "a picture of {x} {on}",
    "an image of {x} {on}",
    "a still image with {x} {on}",
    "there is {x} {on}",
    "{on} there is {x}",
    "a drawing of {x} {on}",
    "{bg} background with {x}",
)
ARTICLES = ("a", "a", "a", "one", "")
JOIN = ("{a} and {b}", "{a} and {b}", "{a}, {b}", "{a} with {b}", "{a} next to {b}")
JOIN_FINITE = ("{a} and {b}", "{a} while {b}", "{a}, {b}")
SUBJECT = ("{colour} {shape}", "{colour} {shape}", "{colour} {shape}", "{shape} that is {colour}")
MAX_WORDS = 30  # with start and end a caption fits the text encoder's 32 tokens
_OMITS_BACKGROUND = 0.04


def caption(
    scene: Scene, rng: np.random.Generator, *, still: bool = False, background: bool | None = None
) -> str:
    """A random caption of a clip, or of a still frame of it (no motion).

    `background` True always names the background; None leaves it out now and then. No caption has
    more than `MAX_WORDS` words and marks.
    """
    while True:
        text = _caption(scene, rng, still, background)
        if len(words(text)) <= MAX_WORDS:
            return text


def held_out_prompts(count: int, seed: int = 0) -> list[tuple[str, Scene]]:
    """`count` (prompt, scene) pairs for scoring: one object each, whose combination of colour,
    shape and motion is held out of training; all held-out combinations equally often."""
    rng = np.random.default_rng([seed, 77])
    pairs: list[tuple[str, Scene]] = []
    while len(pairs) < count:
        for index in rng.permutation(len(combinations("held_out")))[: count - len(pairs)]:
            scene = sample_scene(rng, combination=combinations("held_out")[index])
            pairs.append((caption(scene, rng, background=True), scene))
    return pairs


def _caption(scene: Scene, rng: np.random.Generator, still: bool, background: bool | None) -> str:
    if still:
        template, form = _choice(rng, STILL), "still"
    elif background is None and rng.random() < _OMITS_BACKGROUND:
        template, form = _choice(rng, NO_BACKGROUND), "participle"
    elif rng.random() < 0.5:
        template, form = _choice(rng, FINITE), "finite"
    else:
        template, form = _choice(rng, PARTICIPLE), "participle"
    parts = [_object(o, rng, form) for o in scene.objects]
    if rng.random() < 0.5:
        parts.reverse()
    if len(parts) == 2:
        joint = _choice(rng, JOIN_FINITE if form == "finite" else JOIN)
        parts = [joint.format(a=parts[0], b=parts[1])]
    name = _choice(rng, BACKGROUND_WORDS[scene.background])
    on = _choice(rng, ON).format(bg=name)
    return _articles(template.format(x=parts[0], on=on, bg=name))


def canonical_caption(scene: Scene, *, still: bool = False) -> str:
    """The plain caption: "a red square moves left on a black background"."""
    parts = [
        f"a {o.colour} {o.shape}" + ("" if still else f" {MOTION_WORDS[o.motion][0][0]}")
        for o in scene.objects
    ]
    return _articles(f"{' and '.join(parts)} on a {scene.background} background")


def words(text: str) -> list[str]:
    """The words and punctuation marks of a caption, as the vocabulary counts them."""
    return re.findall(r"[a-z]+|[^a-z\s]", text.lower())


def vocabulary() -> list[str]:
    """Every word and punctuation mark that a caption can hold, sorted."""
    tables = (COLOUR_WORDS, SHAPE_WORDS, BACKGROUND_WORDS, MOTION_WORDS)
    groups = (ON, FINITE, PARTICIPLE, NO_BACKGROUND, STILL, ARTICLES, JOIN, JOIN_FINITE, SUBJECT)
    found = {"an"}
    for text in _strings((*(tuple(t.values()) for t in tables), groups)):
        found.update(words(re.sub(r"\{\w+\}", " ", text)))
    return sorted(found)


def _object(item: SceneObject, rng: np.random.Generator, form: str) -> str:
    colour = _choice(rng, COLOUR_WORDS[item.colour])
    shape = _choice(rng, SHAPE_WORDS[item.shape])
    subject = _choice(rng, SUBJECT).format(colour=colour, shape=shape)
    text = f"{_choice(rng, ARTICLES)} {subject}"
    if form != "still":
        finite, participle = _choice(rng, MOTION_WORDS[item.motion])
        text += f" {finite if form == 'finite' else participle}"
    return text


def _articles(text: str) -> str:
    """Single spaces, and "an" before a vowel."""
    return re.sub(r"\ba (?=[aeiou])", "an ", " ".join(text.split()).replace(" ,", ","))


def _choice(rng: np.random.Generator, options: tuple):
    return options[int(rng.integers(len(options)))]


def _strings(value: str | Iterable) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    else:
        for item in value:
            yield from _strings(item)
