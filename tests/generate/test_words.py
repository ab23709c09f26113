"""What is refused is refused in the words of the command line, before anything is written."""

import pytest
from tiny_models import tiny_pipeline

from diffusers_macdm.commands import main as cli
from diffusers_macdm.phantom import write_phantom


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    tiny_pipeline().save_pretrained(folder / "model")
    write_phantom(folder / "data", num_normal=2, num_lesion=2, size=32, seed=0)
    return folder


REFUSED = {
    "--from data": "--from needs a strength",
    "--from data --masks-from data --strength 0.5": "--from and --masks-from are both given",
    "--strength 0.5": "--strength 0.5 needs --from",
    "--from data --strength 7": "--strength 7.0 is not allowed",
    "--from data --strength 0.001": "--strength 0.001 lies below the lowest level of the schedule with --num",
    "--from data --strength 0.5 --scheduler PNDMScheduler": "--strength 0.5: PNDMScheduler cannot start from a real case",
    "--num-inference-steps 0": "--num-inference-steps 0 is not allowed: a whole number from 1 to 1000",
    "--num-inference-steps 1001": "--num-inference-steps 1001 is not allowed",
    "--num-inference-steps 3 --scheduler PNDMScheduler": "--num-inference-steps 3 is not allowed: a whole number from 4, which",
    "--scheduler Foo": "--scheduler 'Foo' is no scheduler class of diffusers",
    "--scheduler LCMScheduler": "--scheduler 'LCMScheduler' cannot sample from this model: it needs a network distilled",
    "--scheduler FlowMatchEulerDiscreteScheduler": "--scheduler 'FlowMatchEulerDiscreteScheduler': FlowMatch",
    "--labels 7": "--labels [7] is not allowed: this model knows 0, 1",
    "--guidance-interval 0.5 0.2": "--guidance-interval (0.5, 0.2) is not allowed",
    "--guidance-scale nan": "--guidance-scale nan is not allowed",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_the_option_is_named_as_it_was_typed(typed, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    try:
        code = cli.main(["generate", "model", str(tmp_path / "out"), "--num-per-class", "1", *typed.split()])
    except SystemExit as end:
        code = end.code
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert code in (1, 2) and sentence.startswith(f"macdm generate: {REFUSED[typed]}"), sentence
    assert not (tmp_path / "out").exists()
