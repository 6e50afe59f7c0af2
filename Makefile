# Everything stands on python3 (3.11 or newer), make and git. The environment is built once, at .venv.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

.PHONY: demo test test-cluster test-readers test-lowest chaos lint audit bench clean

demo: .venv/installed  ## the whole pipeline on drawn faces; prints where the report is; with PHOTO=me.jpg the ages in it, too
	rm -rf $(DEMO)
	$(BIN)/python jobs/draw.py --out $(DEMO)/faces --layout utkface --num-faces 1500
	$(BIN)/python jobs/catalog.py --source $(DEMO)/faces --layout utkface --pack 128 --split 0.7 0.1 0.2 --out $(DEMO)/catalog
	$(BIN)/python jobs/train.py drawn --catalog $(DEMO)/catalog --out $(DEMO)/run
	$(BIN)/python jobs/score.py --catalog $(DEMO)/catalog --checkpoint $(DEMO)/run/best --out $(DEMO)/predictions
	$(BIN)/python jobs/evaluate.py --catalog $(DEMO)/catalog --predictions $(DEMO)/predictions --out $(DEMO)/report
ifdef PHOTO
	$(BIN)/python jobs/predict.py $(PHOTO) --checkpoint $(DEMO)/run/best --faces largest
	$(BIN)/python jobs/predict.py $(PHOTO) --faces all --draw $(DEMO)/photo
endif

test: .venv/installed  ## all tests that a change must pass, in nine minutes on two quick cores, in twenty on slow ones
	$(BIN)/python -m pytest

test-cluster: .venv/installed  ## jobs submitted to a cluster with its dashboard, and to three hosts (as root); minutes
	$(BIN)/python -m pytest -n 0 -m cluster tests/cluster

test-readers: .venv/installed .venv-readers/installed  ## the tables in other people's tools, pyarrow old and new; a minute
	AGESCALE_READERS_PYTHON=.venv-readers/bin/python $(BIN)/python -m pytest -n 0 tests/tables/test_readers.py

test-lowest: .venv-lowest/installed  ## tests below the jobs with the lowest versions that pyproject.toml promises
	.venv-lowest/bin/python -m pytest --ignore tests/jobs --ignore tests/faults --ignore tests/cluster

chaos: .venv/installed  ## 56 kills of scoring, half of them on S3, two nights of 20,000 objects, kills of trainings and sweeps, bad nights, interruptions, 4,500 spoiled pictures; an hour and a half
	AGESCALE_NUM_KILLS=28 $(BIN)/python -m pytest -n 0 -s -m '' tests/faults/test_scoring_kills.py
	AGESCALE_NUM_OBJECTS=20000 $(BIN)/python -m pytest -n 0 -s -m chaos --ignore tests/faults/test_scoring_kills.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: .venv/installed .venv-audit/installed  ## what is installed: SBOM and licences into runs/audit, and known vulnerabilities, which needs their database
	mkdir -p runs/audit
	.venv-audit/bin/cyclonedx-py environment --pyproject pyproject.toml --output-file runs/audit/sbom.json $(BIN)/python
	.venv-audit/bin/pip-licenses --python $(BIN)/python --format csv --output-file runs/audit/licences.csv
	@.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off \
	  2> runs/audit/audit.log || { code=$$?; grep -q '^Traceback' runs/audit/audit.log || { cat runs/audit/audit.log >&2; exit $$code; }; \
	  echo "error: no answer from the database of vulnerabilities (runs/audit/audit.log); SBOM and licences are in runs/audit" >&2; exit 2; }

bench: .venv/installed  ## side by side against what one would write by hand; ends with a table of ratios; an hour
	$(BIN)/python benchmarks/all.py $(if $(SIZE),--size $(SIZE))

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# pyarrow is the oldest that is allowed there; the readers are whatever is newest
.venv-readers/installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-readers
	grep ^pyarrow constraints-lowest.txt > .venv-readers/constraints.txt
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["readers"], sep="\n")' \
	  > .venv-readers/requirements.txt
	.venv-readers/bin/python -m pip install --quiet --constraint .venv-readers/constraints.txt -r .venv-readers/requirements.txt
	touch $@

.venv-lowest/installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable '.[dev]'
	touch $@

.venv-audit/installed: pyproject.toml
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet 'pip-audit>=2.10' 'cyclonedx-bom>=7' 'pip-licenses>=5.5'
	touch $@

clean:
	rm -rf .venv .venv-readers .venv-lowest .venv-audit runs
