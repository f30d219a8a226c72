"""What the cases aim at: time of a peer over ours, by case, dtype and row."""

TARGETS: dict[str, dict[str, dict[str, float]]] = {
    "forward_video": {
        "fp32": {
            "diffusers parts, same weights": 1.38,
            "diffusers Latte": 1.9,
            "Open-Sora STDiT3": 2.3,
            "ComfyUI Wan, as on a CPU": 2.7,
        },
        "bf16": {
            "diffusers parts, same weights": 1.6,
            "diffusers Latte": 1.75,
            "Open-Sora STDiT3": 2.3,
            "ComfyUI Wan, as on a CPU": 2.6,
        },
    },
    "forward_image": {
        "fp32": {"diffusers PixArt": 1.25, "ComfyUI PixArt, as on a CPU": 1.65},
        "bf16": {"diffusers PixArt": 1.12, "ComfyUI PixArt, as on a CPU": 1.25},
    },
    "train_step": {
        "fp32": {"diffusers parts, same weights": 1.1, "diffusers Latte": 1.45},
        "bf16": {"diffusers parts, same weights": 1.2, "diffusers Latte": 1.4},
    },
}
