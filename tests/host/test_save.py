"""STIV Save Checkpoint through the server: the file, what the node shows, the workflow inside."""

from __future__ import annotations

import json

from safetensors import safe_open

from scripts.host import ComfyServer
from stiv.convert.verify import examine


def test_the_bundled_model_is_saved_and_listed(server: ComfyServer) -> None:
    prompt = {
        "1": {
            "class_type": "STIVLoadCheckpoint",
            "inputs": {"ckpt_name": "stiv_nano (bundled)"},
        },
        "2": {
            "class_type": "STIVSaveCheckpoint",
            "inputs": {
                "model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "dtype": "bf16",
                "filename_prefix": "stiv/saved", "title": "Saved nano", "license": "",
            },
        },
    }  # fmt: skip
    run = server.run(prompt)
    (text,) = run.outputs["2"]["text"]
    assert text.startswith("saved: checkpoints/stiv/saved_00001_.safetensors")
    name = "stiv/saved_00001_.safetensors"
    path = server.output_dir / "checkpoints" / name
    health = examine(path)
    assert not health.problems and health.card.modelspec["title"] == "Saved nano"
    with safe_open(path, "pt") as file:
        kept = json.loads(file.metadata()["prompt"])
    assert {key: kept[key]["inputs"] for key in kept} == {k: v["inputs"] for k, v in prompt.items()}
    # asked for anew: what the server's fixture remembers may be older than the file
    schema = server.get("/object_info/STIVLoadCheckpoint")["STIVLoadCheckpoint"]
    choices = schema["input"]["required"]["ckpt_name"]
    assert name in json.dumps(choices)
