"""Prompts and seeds as people write them."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from stiv.prompts import MAX_LINES, MAX_SEED, MAX_TEXT, Prompts, Seeds, parse_prompts, parse_seeds

RELAXED = settings(deadline=None)


def test_prompts_of_everything_of_key_frames_and_of_segments() -> None:
    text = (
        "\n a harbour at dawn, 16:9 \r\n7: a gull: close\n3 - 5:the dog sleeps\n\nKEY : wide shot\n"
    )
    assert parse_prompts(text, segments=8, keys=1) == Prompts(
        prompt="a harbour at dawn, 16:9",
        key_prompt="wide shot",
        prompts=((3, 5, "the dog sleeps"), (7, 7, "a gull: close")),
    )
    assert parse_prompts("") == parse_prompts(" \n\n") == Prompts()
    assert parse_prompts("0–2: with a dash").prompts == ((0, 2, "with a dash"),)


def test_seeds_of_segments_and_of_key_frames() -> None:
    text = f"7: 123\n0:{MAX_SEED}\nkey: 5\n\nKey2: 0"
    assert parse_seeds(text, segments=8, keys=3) == Seeds(
        seeds=((0, MAX_SEED), (7, 123)), key_seeds=((0, 5), (2, 0))
    )
    assert parse_seeds("") == Seeds()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\n3: b\n2-4: c", r"line 2 \('3: b'\) and line 3 \('2-4: c'\) are both prompts of seg"),
        ("5: b\n\n5: c", r"line 1 \('5: b'\) and line 3 \('5: c'\) are both .* segment 5"),
        ("a\nb", r"line 1 \('a'\) and line 2 \('b'\) are both prompts of everything"),
        ("key: a\nkey: b", "are both prompts of the key frames"),
        ("19: b", r"line 1 \('19: b'\) is for segment 19: the last one is 18"),
        ("4-19: b", "is for segment 19: the last one is 18"),
        ("5-3: b", r"line 1 \('5-3: b'\) runs backwards: write 3-5"),
        ("\n3:", r"line 2 \('3:'\) has no text after the colon"),
        ("key: ", "has no text after the colon"),
        ("16:9 film", r"'16:9 film'\) is not understood: write '3: text'"),
        ("seg3: b", "not understood"),
        ("x2_3: b", "not understood"),
        ("key1: b", "not understood"),
        ("1,2: b", "not understood"),
        ("-1: b", "not understood"),
        (": b", "not understood"),
        ("1" * 5000 + ": b", "not understood"),
        ("٣٣: b\nc", "both prompts of everything"),  # digits of other scripts are words
        ("a" * (MAX_TEXT + 1), "1,000,001 characters long: at most 1,000,000"),
        ("\n" * MAX_LINES, "20,001 lines: at most 20,000"),
        (7, "prompts are 7: expected text"),
    ],
)
def test_bad_prompts_quote_the_line(text, words) -> None:
    with pytest.raises(ValueError, match=words) as error:
        parse_prompts(text, segments=19, keys=1)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3: 1\n\n3: 2", r"line 1 \('3: 1'\) and line 3 \('3: 2'\) are both seeds of segment 3"),
        ("key: 1\nkey0: 2", "are both seeds of key0"),
        ("19: 1", r"line 1 \('19: 1'\) is for segment 19: the last one is 18"),
        ("key2: 1", "is for window of key frames 2: the last one is 1"),
        (f"3: {MAX_SEED + 1}", "has a seed above the highest, 18446744073709551615"),
        ("3: " + "9" * 5000, "not understood"),
        ("123", r"'123'\) is not understood: write '7: 123'"),
        ("3: -1", "not understood"),
        ("3-5: 1", "not understood"),
        ("3: 1.5", "not understood"),
        ("3: one", "not understood"),
        (None, "seeds are None: expected text"),
        ("\n" * MAX_LINES, "at most 20,000"),
    ],
)
def test_bad_seeds_quote_the_line(text, words) -> None:
    with pytest.raises(ValueError, match=words) as error:
        parse_seeds(text, segments=19, keys=2)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_where_there_are_none() -> None:
    with pytest.raises(ValueError, match="for segment 0, but there is no segment"):
        parse_prompts("0: a", segments=0)
    with pytest.raises(ValueError, match="for key frames, which this video has none of"):
        parse_prompts("key: a", keys=0)
    with pytest.raises(ValueError, match="there is no window of key frames"):
        parse_seeds("key: 1", keys=0)


@RELAXED
@given(st.text(alphabet="0123456789-–:,. \nkeysgx_a\u2028\r\ud800", max_size=60) | st.text())
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    for parse in (parse_prompts, parse_seeds):
        try:
            parse(text, segments=9, keys=2)
        except ValueError as error:
            assert len(str(error).splitlines()) == 1


@RELAXED
@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=9), st.randoms())
def test_written_prompts_come_back(runs, random) -> None:
    prompts, at = [], 0
    for length, is_prompted in runs:
        if is_prompted:
            prompts.append((at, at + length - 1, f"text {at}"))
        at += length
    lines = [f"{a}-{b}: {text}" if b > a else f"{a}: {text}" for a, b, text in prompts]
    random.shuffle(lines)
    assert parse_prompts("\n".join(lines), segments=at).prompts == tuple(prompts)


@RELAXED
@given(st.dictionaries(st.integers(0, 99), st.integers(0, MAX_SEED)))
def test_written_seeds_come_back(seeds) -> None:
    text = "\n".join(f"{number}: {seed}" for number, seed in seeds.items())
    assert parse_seeds(text, segments=100).seeds == tuple(sorted(seeds.items()))


def test_a_long_line_is_read_at_once() -> None:
    for text in ("1" * MAX_TEXT, "-" * MAX_TEXT, "1-" * 400_000, "3" + " " * 900_000 + "x"):
        assert parse_prompts(text).prompt == text.strip()
