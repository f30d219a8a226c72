"""LoRA files: read in every form that trainers write, converted, merged and extracted."""
