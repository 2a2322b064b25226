# Every command a user or CI runs. `make` alone lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*\#\#.*/\1/p' $(firstword $(MAKEFILE_LIST)))

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

$(STAMP): requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

install: $(STAMP)  ## make .venv with pinned dependencies (hashes checked)

demo: $(STAMP)  ## one pass through the real Envoy with the real SDK, printed as a table
	@$(BIN)/python -m demo

run: $(STAMP)  ## the same and stays up; forwards to Groq when GROQ_API_KEY is set
	@$(BIN)/python -m demo --stay

endpoints-table: $(STAMP)  ## each call of the SDKs in each situation through the real Envoy: decision, charge before and after
	@$(BIN)/python -m tests.e2e.matrix

test: $(STAMP)  ## the whole test suite
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

test-grpcio: $(STAMP)  ## the tests through Envoy once more, with Check on grpcio instead of our own transport
	AUTHZ_TRANSPORT=grpcio $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup tests/e2e tests/envoy tests/test_server.py

chaos: $(STAMP)  ## every fault on both stores under load; a table of what was lost (ARGS="--json", "--only redis --seconds 10")
	@$(BIN)/python -m tests.chaos $(ARGS)

rolling: $(STAMP)  ## rolling restarts of two sidecars under load (ARGS="--rounds 50")
	@$(BIN)/python -m tests.chaos.rolling $(ARGS)

SOAK_MINUTES ?= 60
soak: $(STAMP)  ## steady load for SOAK_MINUTES; memory growth and stale reservations
	@$(BIN)/python -m tests.chaos.soak --minutes $(SOAK_MINUTES) $(ARGS)

lint: $(STAMP)  ## ruff: rules and formatting; the Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@if [ -x $(BIN)/hadolint ]; then $(BIN)/hadolint Dockerfile; fi

types: $(STAMP)  ## mypy, strict
	$(BIN)/mypy

check: lint types test  ## what CI runs

attacks: $(STAMP)  ## renew the table of docs/security.md: which test holds which promise
	$(BIN)/python -m tests.tools.attack_table

FUZZ_SECONDS ?= 300
fuzz: $(STAMP)  ## fuzz each target for FUZZ_SECONDS, or FUZZ_RUNS inputs; FUZZ_TARGETS names some; what is found stays in run/fuzz
	$(BIN)/python -m tests.fuzz $(FUZZ_TARGETS) --seconds $(FUZZ_SECONDS) $(if $(FUZZ_RUNS),--runs $(FUZZ_RUNS))

reloads: $(STAMP)  ## 1,000 reloads while 200 decisions a second are made: none fails, none mixes two bundles, none leaks
	$(BIN)/python -m tests.bundle.reloads --reloads 1000

replay: $(STAMP)  ## replay 100,000 recorded decisions, and say how long it took
	$(BIN)/python -m tests.review.replayspeed --decisions 100000

screenshots: $(STAMP)  ## renew docs/images, in headless Chromium
	$(BIN)/python -m tests.admin.screenshots docs/images

bench: $(STAMP)  ## every figure of docs/performance.md, in some ten minutes; writes bench/results.json and the table
	@$(BIN)/python -m bench

bench-quick: $(STAMP)  ## the most of it in under 50 seconds; writes nothing, and its last line is the summary
	@$(BIN)/python -m bench --quick

profile: $(STAMP)  ## where a decision's time goes, phase by phase; `ARGS=--functions` by function
	@$(BIN)/python -m bench.phases $(ARGS)

lock: $(STAMP)  ## renew requirements/*.txt from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml -o requirements/runtime.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --group dev -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements/build.in -o requirements/build.txt

sbom: $(STAMP)  ## what is shipped, as CycloneDX: build/sbom.json
	@mkdir -p build
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --short-PURLs --output-reproducible --of JSON -o build/sbom.json requirements/runtime.txt

licenses: $(STAMP)  ## licences of what is shipped; fails on one that is not on the list
	@$(BIN)/python -m tests.tools.supply_chain licenses

audit: $(STAMP)  ## known vulnerabilities of what is shipped; exit code 2 where nothing could be looked up
	@$(BIN)/python -m tests.tools.supply_chain audit

mutation: $(STAMP)  ## mutation testing of policy/, quota/ and body reading (MUTATE="authz.quota.windows*" for a part)
	-nice $(BIN)/python tests/tools/mutation.py run $(MUTATE)
	@$(BIN)/python -m tests.tools.mutation_score

proto: $(STAMP)  ## regenerate the wire types from proto/
	$(BIN)/python tests/tools/generate_proto.py

clean:  ## remove what the other targets made
	rm -rf $(VENV) build dist mutants *.egg-info .mypy_cache .ruff_cache .hypothesis run var
