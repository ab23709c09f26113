"""Loading what was pushed, in other processes: with an empty cache, offline, without this package."""

import json
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from diffusers.pipelines import pipeline_utils
from hub_pushes import in_another_process
from hub_server import HubServer
from huggingface_hub import constants
from sample_without_package import samples
from tiny_models import tiny_pipeline, tiny_unet

from diffusers_macdm.commands import main as cli
from diffusers_macdm.data.dataset import PairDataset
from diffusers_macdm.data.loading import load_pairs
from diffusers_macdm.hub import push_dataset, push_model


READER = """
import json, os, sys
import numpy as np, torch
from diffusers import DDIMScheduler, DiffusionPipeline
from diffusers_macdm import GuidanceClassifier, MaCDMPipeline, MaCDMUNet2DModel
from diffusers_macdm.data.dataset import PairDataset
from diffusers_macdm.data.loading import load_pairs
from diffusers_macdm.hub.loading import load_pipeline

target, local, offline = sys.argv[1], sys.argv[2], sys.argv[3] == "offline"
result = {}

def sample(pipe, **arguments):
    pipe.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    arguments = {"class_labels": [0, 1], "num_inference_steps": 3, "output_type": "pt", "generator": generator} | arguments
    out = pipe(**arguments)
    return torch.cat([out.images, out.anatomy_masks, out.lesion_masks]).float()

def difference(pipe, other, **arguments):
    return float((sample(pipe, **arguments) - sample(other, **arguments)).abs().max())

def error(call):
    try:
        call()
    except Exception as raised:
        return f"{type(raised).__name__}: {raised}"

own = MaCDMPipeline.from_pretrained(local)
pipe = MaCDMPipeline.from_pretrained("alice/leg")
result["class"] = type(pipe).__module__ + " " + type(pipe.unet).__module__
result["pairs"] = difference(pipe, own)
result["guided"] = difference(pipe, own, guidance_scale=2.0)
result["v1"] = difference(MaCDMPipeline.from_pretrained("alice/leg", revision="v1"), own)
if not offline:
    result["plain diffusers"] = difference(DiffusionPipeline.from_pretrained("alice/leg"), own)
    half = MaCDMPipeline.from_pretrained("alice/leg", variant="fp16", torch_dtype=torch.float16)
    result["fp16"] = [str(half.unet.dtype), difference(half, MaCDMPipeline.from_pretrained(local, torch_dtype=torch.float16))]
    scheduler = DDIMScheduler.from_config(own.scheduler.config)
    own.scheduler = scheduler
    result["scheduler"] = difference(MaCDMPipeline.from_pretrained("alice/leg", scheduler=scheduler), own)
    other = DDIMScheduler(beta_schedule="squaredcos_cap_v2")
    result["another schedule"] = error(lambda: MaCDMPipeline.from_pretrained("alice/leg", scheduler=other))
    unet = MaCDMUNet2DModel.from_pretrained("alice/leg", subfolder="unet", revision="v1")
    overridden = MaCDMPipeline.from_pretrained("alice/leg", unet=unet, guidance_classifier=None)
    result["unet"] = overridden.unet is unet and overridden.guidance_classifier is None
    classifier = GuidanceClassifier.from_pretrained("alice/leg", subfolder="guidance_classifier")
    bare = MaCDMPipeline.from_pretrained("alice/bare")
    result["without classifier"] = bool(sample(bare).isfinite().all())
    result["guidance without classifier"] = error(lambda: sample(bare, guidance_scale=1.0))
    bare = MaCDMPipeline.from_pretrained("alice/bare", guidance_classifier=classifier)
    result["given classifier"] = bool(sample(bare, guidance_scale=1.0).isfinite().all())
    pairs = PairDataset(load_pairs("hf://datasets/alice/pairs", "train"), 16)
    result["pairs read"] = pairs[3]["joint_sample"].double().sum().item()
    result["version"] = difference(load_pipeline("alice/leg@v1"), MaCDMPipeline.from_pretrained(local))
    result["no version"] = error(lambda: load_pipeline("alice/leg@v9"))
    for token in ("hf_alice", "hf_bob", "hf_nobody"):
        os.environ["HF_TOKEN"] = token
        result[f"cached, {token}"] = error(lambda: load_pipeline("alice/leg"))
        result[token] = error(lambda: load_pipeline("alice/nowhere" if token == "hf_alice" else "alice/closed"))
else:
    result["not cached"] = error(lambda: load_pipeline("alice/later"))
print(json.dumps(result))
"""


# An older diffusers asks the cache for every file of the repository, also those that it has never downloaded, and the
# huggingface_hub of today refuses that.
LOADS_OFFLINE = hasattr(pipeline_utils, "get_cached_repo_tree")


@pytest.fixture(scope="module")
def pulled(saved, synthetic, tmp_path_factory):
    """What other processes see: pulled with an empty cache; then offline, from the cache,
    while there is a newer revision."""
    folder = tmp_path_factory.mktemp("pulled")
    second = folder / "second"
    tiny_pipeline(norm_eps=1e-3).save_pretrained(second)
    bare = folder / "bare"
    tiny_pipeline(with_classifier=False).save_pretrained(bare)
    with HubServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", server.url)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setenv("HF_TOKEN", server.token)
        assert cli.main(["push", str(saved), "alice/leg", "--tag", "v1"]) == 0
        server.create("alice/closed", private=True)
        push_model(bare, "alice/bare")
        push_dataset(synthetic, "alice/pairs")
        server.requests.clear()
        reader = server.environment(folder / "reader", token=server.token)
        online = in_another_process(["-c", READER], "alice/leg", saved, "online", **reader)
        assert online.returncode == 0, online.stderr
        requests = list(server.requests)
        push_model(second, "alice/leg", tag="v2")
        server.requests.clear()
        reader = server.environment(folder / "reader", offline=True)
        offline = in_another_process(["-c", READER], "alice/leg", saved, "offline", **reader) if LOADS_OFFLINE else None
        offline_requests = list(server.requests)
    assert offline is None or offline.returncode == 0, offline.stderr
    results = [process and json.loads(process.stdout.splitlines()[-1]) for process in (online, offline)]
    return {"online": results[0], "offline": results[1], "requests": requests, "offline requests": offline_requests}


def test_push_and_pull_with_an_empty_cache(pulled):
    online = pulled["online"]
    assert online["class"] == "diffusers_macdm.macdm.pipeline diffusers_macdm.macdm.unet"  # no remote code
    for what in ("pairs", "guided", "v1", "plain diffusers", "scheduler"):
        assert online[what] <= 1e-5, what
    assert online["fp16"][0] == "torch.float16" and online["fp16"][1] <= 1e-5


def test_components_in_place_of_the_repositorys(pulled):
    online = pulled["online"]
    assert online["unet"] and online["given classifier"]
    assert online["another schedule"].startswith("ValueError: DDIMScheduler has another noise schedule")


def test_a_repository_without_a_classifier(pulled):
    online = pulled["online"]
    assert online["without classifier"]
    assert "guidance_scale=1.0 needs a guidance_classifier, which this pipeline lacks" in online["guidance without classifier"]


def test_a_published_set_is_read_as_the_folder_is(pulled, synthetic):

    own = PairDataset(load_pairs(synthetic, "train"), 16)[3]["joint_sample"].double().sum().item()
    assert pulled["online"]["pairs read"] == own


def test_what_a_reader_may_not_see(pulled):
    for token, repo_id, reason in (
        ("hf_alice", "alice/nowhere", "there is no such repository, or your token may not see it (`hf auth login`)"),
        ("hf_bob", "alice/closed", "there is no such repository, or your token may not see it (`hf auth login`)"),
        ("hf_nobody", "alice/closed", "the Hub does not know your token (`hf auth login`)"),
    ):
        expected = f"ValueError: {repo_id}: cannot be loaded from the Hub (and there is no such folder): {reason}"
        assert pulled["online"][token] == expected
    # what lies in the cache is not for those whom the Hub refuses
    assert pulled["online"]["cached, hf_alice"] is None
    for token in ("hf_bob", "hf_nobody"):
        assert "alice/leg: cannot be loaded from the Hub" in pulled["online"][f"cached, {token}"]


def test_a_version_by_its_name(pulled):
    assert pulled["online"]["version"] <= 1e-5
    assert pulled["online"]["no version"].endswith("the repository has no such revision")


@pytest.mark.skipif(not LOADS_OFFLINE, reason="this diffusers loads no pipeline offline from a cache of this huggingface_hub")
def test_a_stale_cache_works_offline(pulled):
    offline = pulled["offline"]
    assert pulled["offline requests"] == []
    for what in ("pairs", "guided", "v1"):
        assert offline[what] <= 1e-5, what
    assert offline["not cached"].endswith("it is not in the cache, and HF_HUB_OFFLINE is set")


def test_no_token_is_sent_to_where_the_files_are(pulled):
    from_storage = [token for method, path, token in pulled["requests"] if method == "GET" and path.count("/") == 1]
    assert len(from_storage) >= 4 and set(from_storage) == {None}


@pytest.mark.slow
def test_pull_without_the_package(hub, tmp_path, monkeypatch):
    """Plain diffusers, in an interpreter that cannot import this package, from the files that the push has put there."""
    pipe = tiny_pipeline()
    pipe.register_modules(weak_unet=tiny_unet(seed=5))
    pipe.save_pretrained(tmp_path / "model")
    push_model(tmp_path / "model", "alice/leg")
    packages = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    if any((Path(directory) / "diffusers_macdm").is_dir() for directory in packages):
        pytest.skip("the package is installed among the others")
    script = Path(__file__).parents[1] / "sample_without_package.py"
    reader = {**hub.environment(tmp_path / "reader", token=hub.token), "PYTHONPATH": ""}
    out = tmp_path / "samples.npz"
    pulled = in_another_process(["-S", script], "alice/leg", "alice/leg", out, *packages, **reader)
    assert pulled.returncode == 0, pulled.stderr
    found = np.load(out)
    for name, expected in samples(pipe).items():
        np.testing.assert_allclose(found[name][:, 0], expected[:, 0], atol=1e-5, err_msg=name)
