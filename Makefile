# What a user needs:   make run · make demo · make test
# What a change needs: make lint · make generate · make conformance · make torture · make soak · make overload · make bench · make bench-mlflow

GO       ?= go
PYTHON   ?= python3
MODULES  := pkg services/ingest services/projector services/query services/registry cmd/runledger test loadtest verifier
PACKAGES := $(MODULES:%=./%/...)
# What has no goroutine of its own: the race detector would only slow its tests down.
PURE     := $(patsubst %,./%,pkg/apierr pkg/caller pkg/events pkg/filter pkg/fold pkg/mlflow pkg/mlflow/server pkg/openapi services/registry/audit \
            services/registry/catalog services/registry/gate services/registry/past services/registry/provenance verifier)
VENV     := .venv
PY       := $(VENV)/bin/python
PY_2.9   := $(VENV)-2.9/bin/python
PY_INT   := $(VENV)-integrations/bin/python
# The race detector needs a C compiler.
RACE     := $(if $(shell command -v $${CC:-cc}),-race)
URI      ?= http://127.0.0.1:5000

.PHONY: help build run demo test test-go test-client test-client-2.9 test-differential test-integrations conformance lint generate torture soak overload bench bench-mlflow clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

engine/node_modules: engine/package-lock.json
	@echo "Fetching the ClickHouse engine (about 130 MB, once)"
	cd engine && npm ci
	@touch $@

build: engine/node_modules ## Build bin/runledger
	CGO_ENABLED=0 $(GO) build -o bin/runledger ./cmd/runledger
	@echo "Built bin/runledger. Next: bin/runledger up"

run: build ## Build and start Runledger on http://127.0.0.1:5000
	bin/runledger up

# The program of an environment is a link to the one it was made with, which tells nothing.
define make-environment
@echo "Making a Python environment in $(@D): $(1) (once)"
$(PYTHON) -m venv $(@D)
$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
@touch $@
endef

$(VENV)/ready: test/client/requirements.txt
	$(call make-environment,the mlflow client)

$(VENV)-2.9/ready: test/client/requirements-2.9.txt
	$(call make-environment,the mlflow 2.9 client)

$(VENV)-integrations/ready: test/integrations/requirements.txt
	$(call make-environment,PyTorch and others of 6 GB)

$(VENV)-bench/ready: loadtest/requirements.txt
	$(call make-environment,MLflow's server)

demo: $(VENV)/ready ## Run a sweep and promotions against the server of `make run` (URI=…)
	MLFLOW_DISABLE_TELEMETRY=true $(PY) -W ignore::FutureWarning examples/sweep/sweep.py --tracking-uri $(URI)
	MLFLOW_DISABLE_TELEMETRY=true $(PY) -W ignore::FutureWarning examples/promotion/promote.py --tracking-uri $(URI)

test: test-go test-client test-client-2.9 test-differential ## Run all tests

test-go: build
	$(GO) vet $(PACKAGES)
	$(GO) test -timeout 15m $(PURE)
	RUNLEDGER_POWER_LOSSES=300 $(GO) test $(RACE) -timeout 15m $$($(GO) list $(PACKAGES) | grep -vxF "$$($(GO) list $(PURE))")
	@echo "Losing power 2000 times, without the race detector"
	RUNLEDGER_POWER_LOSSES=2000 $(GO) test -count=1 -run PowerLoss ./services/registry/ledger

test-client: build $(VENV)/ready
	cd test/client && ../../$(PY) -m pytest

test-client-2.9: build $(VENV)-2.9/ready
	cd test/client && ../../$(PY_2.9) -m pytest

test-differential: build $(VENV)/ready ## Compare answers with those of MLflow's own server
	cd test/differential && ../../$(PY) -m pytest

conformance: build $(VENV)/ready ## Test MLflow's routes and rules, write docs/mlflow-compatibility.md
	GO="$(GO)" $(PY) test/client/conformance.py

test-integrations: build $(VENV)-integrations/ready ## Run Lightning, Optuna, XGBoost and LightGBM against Runledger (6 GB on disk)
	cd test/integrations && ../../$(PY_INT) -m pytest

lint: $(VENV)/ready ## Check style: gofumpt, staticcheck, ruff, mypy
	cd tools && GOWORK=off $(GO) build -o ../bin/tools/ mvdan.cc/gofumpt honnef.co/go/tools/cmd/staticcheck
	@test -z "$$(bin/tools/gofumpt -l $(MODULES) | tee /dev/stderr)"
	bin/tools/staticcheck $(PACKAGES)
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	cd test/client && ../../$(VENV)/bin/mypy .
	cd test/differential && ../../$(VENV)/bin/mypy .
	cd test/integrations && ../../$(VENV)/bin/mypy .

generate: ## Generate the event types from events.proto
	cd tools && GOWORK=off $(GO) build -o ../bin/tools/ github.com/bufbuild/buf/cmd/buf
	cd pkg/events && GOWORK=off ../../bin/tools/buf lint && GOWORK=off ../../bin/tools/buf generate

torture: build ## Kill the server under load, and try random histories, many times (KILLS=500 CHECKS=200)
	RUNLEDGER_TORTURE_KILLS=$(or $(KILLS),500) $(GO) test -count=1 -v -timeout 3h -run NothingAcknowledged ./test
	RUNLEDGER_TORTURE_KILLS=$(or $(KILLS),500) $(GO) test -count=1 -v -timeout 3h -run TestKill ./services/registry
	$(GO) test -count=1 -timeout 3h ./services/projector ./services/query -rapid.checks=$(or $(CHECKS),200)

soak: build ## Load the server for an hour at half of what it sustains, and see what grows (DURATION=1h)
	$(GO) run ./loadtest soak --bin bin/runledger $(if $(DURATION),--duration $(DURATION))

overload: build ## Measure what is still done when more is asked than can be
	$(GO) run ./loadtest overload --bin bin/runledger

bench: build ## Measure ingest beside the bare ClickHouse insert rate
	$(GO) run ./loadtest bench --bin bin/runledger

bench-mlflow: build $(VENV)-bench/ready ## Measure beside MLflow's own server (PostgreSQL where it is installed)
	$(GO) run ./loadtest mlflow --bin bin/runledger --mlflow $(VENV)-bench/bin/mlflow

clean: ## Remove what was built (not data directories)
	rm -rf bin $(VENV) $(VENV)-2.9 $(VENV)-integrations $(VENV)-bench engine/node_modules
