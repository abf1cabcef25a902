# The commands of the README. Each does all its own set-up.

CARGO := cargo
.PHONY: demo lab images packages test lint deny bench fuzz matrix sim

# The main job on loopback; `make demo TOUR=1` plays it unattended under load and says how many requests failed.
demo:
	@scripts/setup demo
	$(CARGO) build --locked --bins
	@target/debug/demo $(if $(TOUR),--tour) $(DEMO_ARGS)

# The images of the lab, and its tour in containers (docs/lab.md). Needs Docker.
images:
	@compose/build
lab:
	@compose/tour

# Debian packages of both binaries, and a try of them in a clean container. Needs Docker for the latter.
packages:
	@scripts/setup demo
	@scripts/packages
	@scripts/try-packages

# Everything that CI runs. The test runner comes last. SCHEDULES: so many of the simulation that were never run before.
SCHEDULES := 2000
test: lint
	@$(MAKE) --no-print-directory demo TOUR=1
	@scripts/simulate $(SCHEDULES)
	@scripts/run-tests

lint:
	@scripts/setup test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@scripts/deny
	@scripts/words

# Speed, as ratios measured in one run: MEASURE=latency|churn|crash|scale|affinity|leases|beats|status|all.
bench:
	@scripts/bench $(or $(MEASURE),latency) $(BENCH_ARGS)

# Records and HAProxy's answers, by coverage. Needs cargo-fuzz (cargo install cargo-fuzz); FUZZ_S seconds for each.
FUZZ_S := 60
fuzz:
	@scripts/fuzz $(FUZZ_S)

# The whole in virtual time, under drawn faults: SEEDS=A..B.
SEEDS := 0..20000
sim:
	$(CARGO) build --locked --profile sim -p sim
	target/sim/sim run --seeds $(SEEDS) -j $$(nproc)

# What talks to HAProxy, on every HAProxy that Debian has, as root; then whole containers of each Debian.
matrix:
	@scripts/setup test
	@scripts/matrix
	@scripts/matrix-containers
