"""The command line of a settings class: what is understood, and one line for what is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
import tyro

from diffusers_macdm.parsing import as_typed, option_names, parse


@dataclass(frozen=True)
class Budget:
    """What each model may use.

    Attributes:
        steps: Training steps of every model.
    """

    steps: int = 4


@dataclass(frozen=True)
class Settings:
    """Write a set.

    Attributes:
        model: Folder of a model.
        num_per_class: Pairs for each label.
        from_data: Real cases to vary.
        interval: Two levels.
        labels: Labels to make; all when not given.
        sampler: Sampler.
        refine: Whether masks are refined.
        budget: What may be used.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    num_per_class: Annotated[int, tyro.conf.arg(metavar="N")]
    from_data: Annotated[str | None, tyro.conf.arg(name="from", metavar="DATA")] = None
    interval: tuple[float, float] = (0.0, 1.0)
    labels: tuple[int, ...] | None = None
    sampler: Literal["ddim", "ddpm"] = "ddim"
    refine: bool = True
    budget: Annotated[Budget, tyro.conf.OmitArgPrefixes] = field(default_factory=Budget)

    def __post_init__(self):
        if self.num_per_class < 1:
            raise ValueError(f"num_per_class={self.num_per_class} is not allowed: it must be at least 1.")


def parsed(*words, **options):
    return parse(Settings, words, "macdm make", **options)


def test_every_kind_of_option():
    words = "m --num-per-class 3 --from=d --interval -1 2 --labels 0 1 --sampler ddpm --no-refine --steps 9".split()
    assert parsed(*words) == Settings("m", 3, "d", (-1.0, 2.0), (0, 1), "ddpm", False, Budget(9))


def test_underscores_and_hyphens_are_the_same():
    assert parsed("m", "--num_per_class", "3") == parsed("m", "--num-per-class", "3", underscores=True)


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("m --num-per-clas 3", "there is no option --num-per-clas; did you mean --num-per-class?"),
        ("m --num-per-class 3 --zzz", "there is no option --zzz; see macdm make --help."),
        ("m", "--num-per-class is missing; see macdm make --help."),
        ("--num-per-class 3", "MODEL is missing; see macdm make --help."),
        ("m --num-per-class x", "--num-per-class x is not allowed: it takes whole numbers."),
        ("m --num-per-class 0", "--num-per-class 0 is not allowed: it must be at least 1."),
        ("m --num-per-class", "--num-per-class needs a value."),
        ("m --num-per-class 3 --interval 1", "--interval needs 2 values."),
        ("m --num-per-class 3 --interval 1 y", "--interval '1', 'y' is not allowed: a value of another kind is needed."),
        ("m --num-per-class 3 --labels a", "--labels a is not allowed: a value of another kind is needed."),
        ("m --num-per-class 3 --sampler c", "--sampler c is not allowed; allowed are 'ddim', 'ddpm'."),
        ("m --num-per-class 3 extra", "extra is not understood; every value follows its option."),
    ],
)
def test_what_is_wrong_is_one_line(words, sentence, capsys):
    with pytest.raises(SystemExit) as end:
        parsed(*words.split())
    captured = capsys.readouterr()
    assert end.value.code == 2
    assert captured.err == f"macdm make: {sentence}\n" and not captured.out


def test_an_old_name_goes_on_working_with_a_word(capsys):
    assert parsed("m", "--pairs", "3", renamed={"--pairs": "--num-per-class"}).num_per_class == 3
    assert (
        capsys.readouterr().err
        == "macdm make: --pairs is called --num-per-class now; the old name goes with the next version.\n"
    )


def test_help_shows_every_option_with_its_sentence(capsys):
    with pytest.raises(SystemExit) as end:
        parsed("--help")
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert all(option in text for option in option_names(Settings))
    assert "Pairs for each label." in text and "Training steps of every model. (default: 4)" in text
    assert "None" not in text and "MODEL" in text


def test_sentences_of_the_library_in_the_words_that_were_typed():
    assert as_typed("from_data=x needs num_per_class=3, not my_from_data=2.", Settings) == (
        "--from x needs --num-per-class 3, not my_from_data=2."
    )
    assert as_typed("If so, say real_images=True (--real-images).", Settings) == "If so, say --real-images."
