# Every target prepares its environment first (about ten minutes and 7 GB the first time, a moment
# afterwards); nothing but python3 and make is needed.
PYTHON ?= python3
RUN := $(PYTHON) scripts/prepare.py run

.DEFAULT_GOAL := help
.PHONY: help prepare demo test lint format bench score thumbnails pictures locales

help:  ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

prepare:  ## fetch ComfyUI and make the Python environment, nothing else
	@$(PYTHON) scripts/prepare.py

demo:  ## render workflows/image_to_video.json on a real ComfyUI; the last line is the video's path
	@$(RUN) -m scripts.demo

test:  ## run every default test, on the real server and in a real browser
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -n 3 --dist loadfile

lint:  ## check style and formatting
	@$(RUN) -m ruff check --no-cache .
	@$(RUN) -m ruff format --check .

format:  ## apply style and formatting
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

bench:  ## measure speed and memory
	@$(RUN) -m benchmarks

score:  ## score the bundled nano checkpoint; the last line is JSON
	@$(RUN) -m training score

thumbnails:  ## make the workflows' thumbnails and the gallery from what they render
	@$(RUN) -m scripts.thumbnails

pictures:  ## draw the nodes for their help pages, in ComfyUI's front end
	@$(RUN) -m scripts.pictures

locales:  ## write the English words of locales/ and say what the translations lack
	@$(RUN) -m scripts.locales
