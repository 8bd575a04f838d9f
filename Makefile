# The targets a user types; `make` lists them from the comments behind them.
PYTHON ?= python3
BIN := .venv/bin

DATASET ?= mini
LENGTH ?=
# An existing copy of the data set; empty: downloaded, where it is one that can be.
ROOT ?=
LENGTH_OPTION := $(if $(filter fsd50k,$(DATASET)),--max-length,--length)
# mini is of 4 s: asked for at that length it is itself.
OWN_LENGTH := $(if $(filter mini,$(DATASET)),4)
of_length = $(DATASET)$(patsubst %,-%s,$(filter-out $(OWN_LENGTH),$(1)))
DATA := $(call of_length,$(LENGTH))
# On real recordings the teacher is BASE fine-tuned, unless TEACHER names another; the settings are meant for 16 GB.
BASE ?= facebook/wav2vec2-large-xlsr-53
TEACHER_OPTIONS ?= --batch-size 8 --gradient-accumulation-steps 4 --freeze-encoder-steps 500 --epochs 10 --patience 3 --bfloat16 --gradient-checkpointing --workers 4
FINETUNED := $(if $(filter nscv2 speech_commands fsd50k,$(DATASET)),teachers/$(DATA)/$(notdir $(BASE:%/=%)))
TEACHER ?= $(or $(FINETUNED),bundled)
USUAL := $(if $(FINETUNED),teachers/$(DATA)/wav2vec2-large-xlsr-53,bundled)
CACHE := caches/$(DATA)$(if $(filter-out $(USUAL),$(TEACHER)),-$(notdir $(TEACHER:%/=%))).zarr
comma := ,
# Whose clips the page of the tables shows: those of the data set's own length, if it is among them, else of the first.
TABLE_DATA = $(call of_length,$(firstword $(filter $(OWN_LENGTH),$(LENGTH_LIST)) $(LENGTH_LIST)))
STUDENT ?= crnn
KD_WEIGHT ?= 0.25
SEED ?= 0
# As tkd train would name it, but after the cache: of one data set there are caches of several lengths and teachers.
RUN = runs/$(notdir $(basename $(CACHE)))-$(STUDENT)-kd$(KD_WEIGHT)$(if $(BFLOAT16),-bfloat16)-seed$(SEED)
# Of the tables: clip lengths in seconds (as 2,4,6,8; empty: the data set's own), students, those of the controls, how
# many seeds, and epochs (empty: as many as tkd train). For mini two cores take two to three hours.
LENGTHS ?= $(LENGTH)
LENGTH_LIST = $(subst $(comma), ,$(LENGTHS))
STUDENTS ?= all
CONTROLS ?= $(if $(filter mini,$(DATASET)),crnn$(comma)tc_resnet,$(STUDENTS))
SEEDS ?= 3
EPOCHS ?= $(if $(filter mini,$(DATASET)),12)
TABLE_OPTIONS = --seeds $(SEEDS) $(if $(EPOCHS),--epochs $(EPOCHS)) $(BFLOAT16) --out runs/tables/$(DATASET)/$(DATA)
# Mixed precision where the processor has instructions for it.
BFLOAT16 := $(shell grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo 2>/dev/null && echo --bfloat16)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check teacher teacher-cache train grid tables evidence bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

setup: .venv/.done  ## make the virtual environment (a step of every target that needs it)

.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $@

demo: setup $(CACHE)  ## data, teacher's cache, a CRNN without and with distillation: tables, a picture and a page
	$(BIN)/tkd sweep --cache $(CACHE) --students crnn --kd-weights 0,0.5 --seeds 1 $(BFLOAT16) --out runs/demo
	$(BIN)/tkd report runs/demo --data data/$(DATA)

teacher-cache: setup $(CACHE)  ## stage one: DATASET=mini|synth|nscv2|speech_commands|fsd50k LENGTH=8 TEACHER=bundled, ROOT, BASE
	$(BIN)/tkd cache validate $(CACHE)
	$(BIN)/tkd cache info $(CACHE)

data/$(DATA)/dataset.json: | setup
	$(BIN)/tkd data prepare $(DATASET) $(if $(LENGTH),$(LENGTH_OPTION) $(LENGTH)) $(if $(ROOT),--root '$(ROOT)') --out data/$(DATA)

ifneq ($(FINETUNED),)
$(FINETUNED)/tkd_teacher.json: | data/$(DATA)/dataset.json
	$(BIN)/tkd teacher train --data data/$(DATA) --base '$(BASE)' $(TEACHER_OPTIONS) --out $(FINETUNED)
endif

$(CACHE): | data/$(DATA)/dataset.json $(if $(filter $(FINETUNED),$(TEACHER)),$(FINETUNED)/tkd_teacher.json)
	$(BIN)/tkd cache build --data data/$(DATA) --teacher $(TEACHER) --out $@

train: setup $(CACHE)  ## stage two: DATASET=mini STUDENT=crnn KD_WEIGHT=0.25 SEED=0
	$(BIN)/tkd-train --cache $(CACHE) --student $(STUDENT) --kd-weight $(KD_WEIGHT) --seed $(SEED) $(BFLOAT16) --resume --out $(RUN)

grid: setup $(CACHE)  ## one length of the tables: DATASET=mini LENGTH=8 STUDENTS=all SEEDS=3
	$(BIN)/tkd sweep --cache $(CACHE) --students $(STUDENTS) --kd-weights 0,0.1,0.25,0.5 $(TABLE_OPTIONS)
	$(BIN)/tkd sweep --cache $(CACHE) --students $(CONTROLS) --kd-weights 0.25 --frame-weights uniform,shuffled,event $(TABLE_OPTIONS)

tables: setup  ## the papers' tables with controls: DATASET=mini|nscv2|fsd50k LENGTHS=2,4,6,8 STUDENTS=all SEEDS=3
	set -e; for length in $(or $(LENGTH_LIST),''); do $(MAKE) grid LENGTH=$$length; done
	$(BIN)/tkd report runs/tables/$(DATASET) --data data/$(TABLE_DATA) --out results/$(DATASET)

# Longer; a tenth of the clips ten times as often, three tenths of them three times, in as many steps as the tables; other maps.
MINI_SWEEP = $(BIN)/tkd sweep --cache caches/mini.zarr --seeds $(SEEDS) $(BFLOAT16) --out runs/tables/mini/mini
UNHEARD := rain,wind,melody,alarm
evidence: setup $(if $(filter mini,$(DATA)),$(CACHE))  ## beside the tables of mini: longer training, fewer clips, other targets, noise not heard in training
	@test '$(DATA)' = mini || { echo 'make evidence is of mini, at 4 s: leave DATASET and LENGTH out.' >&2; exit 2; }
	$(MINI_SWEEP) --students crnn,lstm_p,tc_resnet --kd-weights 0,0.5 --epochs 40
	$(MINI_SWEEP) --students crnn --kd-weights 0.5 --frame-weights uniform --epochs 40
	$(MINI_SWEEP) --students crnn,tc_resnet --kd-weights 0,0.25 --fraction 0.1 --epochs 120
	$(MINI_SWEEP) --students crnn,tc_resnet --kd-weights 0,0.25 --fraction 0.3 --epochs 40
	$(MINI_SWEEP) --students crnn,tc_resnet --kd-weights 0.25 --frame-weights layers:1,heads:1.1,learned --epochs 12
	$(BIN)/tkd data prepare mini --noise-kinds $(UNHEARD) --out data/mini-unheard
	$(BIN)/tkd cache build --data data/mini-unheard --out caches/mini-unheard.zarr
	$(BIN)/tkd report runs/tables/mini --data data/mini --test-on caches/mini-unheard.zarr --out results/mini

teacher: setup  ## train the bundled teacher again (about an hour of one core)
	$(BIN)/tkd data prepare synth --clips 16000 600 600 --seed 1 --out data/teacher
	$(BIN)/tkd teacher train --data data/teacher --base small --crops 1.25:12,2:6 --epochs 7 --batch-size 64 --learning-rate 1e-3 --bfloat16 --half --out teachers/small

test: setup  ## run the tests
	$(BIN)/python -m pytest

check: setup  ## lint and check the formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: setup  ## measure speed, memory and size beside their references: benchmarks/RESULTS.md
	$(BIN)/python -m pipeline.bench

clean:  ## remove the environment and the demo's runs; data, teachers and caches stay
	rm -rf .venv build *.egg-info runs/demo
