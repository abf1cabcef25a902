# The commands of the README. Each does all its own set-up.

CARGO := cargo
.PHONY: demo test lint deny bench

# The main job on loopback; `make demo TOUR=1` plays it unattended under load and says how many requests failed.
demo:
	@scripts/setup demo
	$(CARGO) build --locked --bins
	@target/debug/demo $(if $(TOUR),--tour) $(DEMO_ARGS)

# Everything that CI runs. The test runner comes last.
test: lint
	@$(MAKE) --no-print-directory demo TOUR=1
	@scripts/run-tests

lint:
	@scripts/setup test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@scripts/deny

# Speed, as ratios measured in one run.
bench:
	@scripts/setup demo
	$(CARGO) build --locked --release --bins
	target/release/bench latency $(BENCH_ARGS)
