"""`macdm train` as a user starts it: killed, interrupted, gone on with to the end; and what it refuses, writing nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import last_step, read_log, reset_accelerate

from diffusers_macdm import MaCDMPipeline
from diffusers_macdm.commands import main as cli
from diffusers_macdm.files import read_json, write_json
from diffusers_macdm.hub.card import check_card
from diffusers_macdm.phantom import write_phantom


STEPS = 300
TINY = {  # in the place of what the plan says of them: a network that trains in seconds
    "denoiser": {
        "block_out_channels": [8, 16],
        "norm_num_groups": 4,
        "attention_head_dim": 8,
        "train_batch_size": 4,
        "max_train_steps": STEPS,
        "validation_steps": 150,
        "early_validation_steps": [6, 12, 30],
        "num_validation_samples": 2,
        "ddpm_num_inference_steps": 2,
        "checkpointing_steps": 50,
    },
    "samples": {"num_per_class": 2, "num_inference_steps": 2},
    "audit": {"embedding_steps": 2, "planted": 2},
}


def write_cases(folder, num_normal=12, num_lesion=12):
    write_phantom(folder, num_normal, num_lesion, 32, 0)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_cases(tmp_path_factory.mktemp("data") / "phantom")


@pytest.fixture(scope="module")
def planned(data, tmp_path_factory):
    """A folder with a plan, edited to be tiny."""
    out = tmp_path_factory.mktemp("runs") / "model"
    assert cli.main(["plan", str(data), str(out), "--preset", "quick"]) == 0
    assert {path.name for path in out.iterdir()} == {"plan.json", "plan", "check.json", "index.html"}
    plan = read_json(out / "plan.json")
    write_json(out / "plan.json", {**plan, **{part: {**plan[part], **values} for part, values in TINY.items()}})
    return out, plan


def command(data, out, *words):
    return [sys.executable, "-m", "diffusers_macdm", "train", str(data), str(out), *words]


def start(data, out):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command(data, out), start_new_session=True, **pipes)
    signal.signal(signal.SIGINT, before)
    return process


def wait_for_update(process, log, number):
    until = time.monotonic() + 200
    while last_step(log) < number:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture(scope="module")
def trained(data, planned):
    """Killed, interrupted, and gone on with to the end: the folder, the updates where it was stopped, what was said at last."""
    out, _ = planned
    log, stopped = out / "model" / "training_log.jsonl", []
    for number, sent in ((30, signal.SIGKILL), (110, signal.SIGINT)):
        process = start(data, out)
        wait_for_update(process, log, number)
        os.kill(process.pid, sent)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == (-signal.SIGKILL if sent == signal.SIGKILL else 130), errors
        while (out / "model" / ".lock").exists():  # of the training, which keeps its update
            time.sleep(0.01)
        stopped.append(last_step(log))
    result = subprocess.run(command(data, out), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return out, stopped, result


def test_a_plan_says_what_it_takes_and_why(planned, data):
    out, plan = planned
    denoiser, expected = plan["denoiser"], plan["expected"]
    assert denoiser["resolution"] == 32 and denoiser["patch_size"] == 4 and denoiser["learning_rate"] == 1.2e-3
    assert 0.5 * 600 < expected["seconds"] + expected["planning"] < 600 or denoiser["max_train_steps"] == 20000
    assert expected["seconds"] == pytest.approx(sum(expected["parts"].values()), abs=0.5)
    assert plan["measured"]["denoiser"]["update"] > 0 and plan["measured"]["denoiser"]["parameters"] > 1e6
    assert plan["data"]["labels"] == {"0": 12, "1": 12} and plan["data"]["splits"]["train"] == 24
    assert any("median lesion" in sentence for sentence in plan["reasons"]) and not plan["region_of_interest"]["advised"]
    page = (out / "plan/index.html").read_text()
    assert "What the training sees" in page and "<script" not in page


def test_killed_and_interrupted_the_same_command_goes_on(trained):
    out, stopped, result = trained
    assert 30 <= stopped[0] < STEPS and stopped[0] < stopped[1] < STEPS
    assert f"from {out}" in result.stderr.replace(str(out.resolve()), str(out)) and f"at step {stopped[1]}" in result.stderr
    rows = read_log(out / "model/training_log.jsonl")
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps)) and steps[-1] == STEPS and {*range(10, STEPS + 1, 10)} <= set(steps)


def test_it_ends_with_a_model_pairs_an_audit_and_a_card(trained):
    out, _, result = trained
    pipe = MaCDMPipeline.from_pretrained(out / "model")
    assert pipe.unet.config.sample_size == 32 and pipe.guidance_classifier is None
    assert read_json(out / "synthetic/summary.json")["num_pairs"] == 4
    verdict = read_json(out / "audit/audit.json")["verdict"]
    assert verdict in result.stdout
    check_card((out / "card/README.md").read_text())
    assert set(read_json(out / "train.json")["seconds"]) == {"denoiser", "samples", "audit", "card"}


def test_the_time_is_said_after_20_updates(trained):
    out, _, result = trained
    said = [line for line in result.stdout.splitlines() if line.startswith("== after ")]
    assert len(said) == 1 and "min in all" in said[0]
    forecast = read_json(out / "train.json")["forecast"]
    assert 0 < forecast["said"] < 10 * forecast["took"]


def test_pictures_come_early_and_then_regularly(trained):
    out, _, _ = trained
    names = sorted(path.name for path in (out / "model/samples").iterdir())
    assert names == [f"step-{step:06d}.png" for step in (6, 12, 30, 150, 300)]
    page = (out / "training/index.html").read_text()
    assert all(f"Update {step} of 300" in page for step in (6, 12, 30, 150, 300)) and "<script" not in page


def test_one_page_links_everything(trained):
    out, _, _ = trained
    page = (out / "index.html").read_text()
    links = [text.split('"')[0] for text in page.split('href="')[1:] if not text.startswith("data:")]
    expected = {"plan/index.html", "training/index.html", "audit/index.html", "synthetic/contact_sheet.png", "card/README.md"}
    assert expected <= set(links) and all((out / link.partition("#")[0]).is_file() for link in links)
    assert read_json(out / "audit/audit.json")["verdict"].split("'")[0] in page


def test_a_finished_folder_has_nothing_to_do(trained, data, capfd):
    out, _, _ = trained
    before = {path: path.read_bytes() for path in (out / "model").rglob("*") if path.is_file()}
    assert cli.main(["train", str(data), str(out)]) == 0
    assert capfd.readouterr().out.count("done already") == 4
    assert before == {path: path.read_bytes() for path in (out / "model").rglob("*") if path.is_file()}


def test_another_command_beside_the_model_is_linked(trained, data):
    out, _, _ = trained
    words = ["generate", str(out / "model"), str(out / "more"), "--num-per-class", "1", "--num-inference-steps", "2"]
    assert cli.main(words) == 0
    assert 'href="more/contact_sheet.png"' in (out / "index.html").read_text()


def everything(folder: Path) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"denoiser": {"max_train_steps": 20}}, "was begun with another plan: denoiser.max_train_steps was 300, now 20"),
        ({"denoiser": {"block_out_channels": [16, 16]}}, "denoiser.block_out_channels was [8, 16], now [16, 16]"),
        ({"samples": {"num_per_class": 3}}, "samples.num_per_class was 2, now 3"),
        ({"denoiser": {"max_train_step": 20}}, "denoiser.max_train_step is no setting of this part."),
    ],
)
def test_another_plan_is_refused_by_name(trained, data, change, sentence, capsys):
    out, _, _ = trained
    kept = read_json(out / "plan.json")
    write_json(out / "plan.json", {**kept, **{part: {**kept[part], **values} for part, values in change.items()}}, indent=2)
    before = everything(out)
    try:
        assert cli.main(["train", str(data), str(out)]) == 1
        assert sentence in capsys.readouterr().err and everything(out) == before
    finally:
        write_json(out / "plan.json", kept, indent=2)


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--time-budget", "5m"], "--time-budget 5m is not that of"),
        (["--preset", "best"], "--preset best is not that of"),
        (["--seed", "3"], "--seed 3 is not that of"),
        (["--processes", "3"], "--processes 3 do not share the batch of 4"),
    ],
)
def test_options_that_contradict_the_plan(trained, data, words, sentence, capsys):
    out, _, _ = trained
    before = everything(out)
    assert cli.main(["train", str(data), str(out), *words]) == 1
    assert sentence in capsys.readouterr().err and everything(out) == before


def test_other_data_is_refused(trained, tmp_path, capsys):
    out, _, _ = trained
    other = write_cases(tmp_path / "other", 13, 12)
    before = everything(out)
    assert cli.main(["train", str(other), str(out)]) == 1
    assert f"{other} is not the data that {out / 'plan.json'} was made for (phantom)" in capsys.readouterr().err
    assert everything(out) == before


def one_class(folder):
    for split in ("train", "validation", "test"):
        path = folder / split / "metadata.jsonl"
        rows = [line for line in path.read_text().splitlines() if json.loads(line)["label"] == 0]
        path.write_text("\n".join(rows) + "\n")


def missing_file(folder):
    next((folder / "train/images").iterdir()).unlink()


@pytest.mark.parametrize(
    "counts, damage, words, sentence, names",
    [
        ((24, 4), one_class, [], "the train split has the single class label 0; at least two are needed", ("plan", "train")),
        ((8, 8), None, [], "16 cases in train are too few: at least 20 are needed", ("plan", "train")),
        ((12, 12), missing_file, [], "but it is not there", ("plan", "train")),
        (
            (12, 12),
            None,
            ["--time-budget", "soon"],
            "--time-budget soon is not allowed: a time as 6h, 1h30m or 10m is needed.",
            ("plan", "train"),
        ),
        ((12, 12), None, ["--plan", "none.json"], "none.json: there is no such plan", ("train",)),
    ],
)
def test_bad_input_is_a_sentence_and_writes_nothing(names, counts, damage, words, sentence, tmp_path, capsys):
    data, out = write_cases(tmp_path / "data", *counts), tmp_path / "out"
    if damage:
        damage(data)
    for name in names:
        try:
            assert cli.main([name, str(data), str(out), *words]) == 1
        except SystemExit as end:
            assert end.code == 2
        assert sentence in capsys.readouterr().err and not out.exists()


def test_a_folder_of_the_users_is_left_alone(data, tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("mine")
    for name in ("plan", "train"):
        assert cli.main([name, str(data), str(tmp_path)]) == 1
        assert "holds precious.txt, which is none of a model's folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_plan_is_not_made_twice(planned, data, capsys):
    out, _ = planned
    assert cli.main(["plan", str(data), str(out)]) == 1
    assert "plan.json is there already: edit it, or delete it" in capsys.readouterr().err
    reset_accelerate()
