# Everything sets itself up in .venv; `make` alone lists the targets. Another interpreter: make test PYTHON=/path/to/python3.12
SHELL := /bin/bash
VENV  := $(CURDIR)/.venv
PY    := $(VENV)/bin/python
READY := .venv/.ready
ARGS  ?=

.PHONY: help setup demo test lab docs bench notebooks FORCE
help: ## List the targets
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' Makefile | while IFS=$$'\t' read -r t d; do printf '  make %-11s%s\n' "$$t" "$$d"; done

setup: $(READY) ## Create .venv and install everything, pinned (the other targets do it by themselves)
	@echo 'Ready: .venv ('$$($(PY) -V)')'

demo: $(READY) ## Train Neural Resizer + a small Swin on synthetic faces, CPU, about 2 minutes
	@$(VENV)/bin/fer_nr_run nbs/experiments/params/demo.yaml $(ARGS)

test: $(READY) ## Run the whole gate: clean, exported, notebooks run, pytest, site, README
	@$(PY) -m pytest $(ARGS)

lab: $(READY) ## Open JupyterLab in nbs/, at the notebook with the controls
	@cd nbs && $(PY) -m jupyterlab 21_lab.ipynb $(ARGS)

docs: $(READY) ## Build the site into _docs/
	@$(PY) -c 'from fer_nr.docs import build_site; print(build_site())'

bench: $(READY) ## Measure images per second of training here, and what data loading and augmentation cost of it
	@mkdir -p runs; MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=10000000000 $(PY) -c 'import papermill as pm; nb = pm.execute_notebook("nbs/experiments/benchmarks.ipynb", "runs/benchmarks.ipynb", cwd="nbs/experiments", kernel_name="python3", progress_bar=False); print(*(o.data["text/plain"] for c in nb.cells for o in c.get("outputs", []) if "data" in o), "notebook: runs/benchmarks.ipynb", sep="\n\n")'

notebooks: $(READY) ## Run every notebook in place, keep the outputs, clean, export, write README.md
	@$(PY) -c 'from fer_nr.docs import refresh; refresh()'

# The last line of a set-up that went well writes .ready (with the folder, as a moved .venv no longer works). One that was cut off
# while it unpacked leaves .installing behind, and the next one starts from an empty .venv.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
$(READY): FORCE
endif
$(READY): constraints.txt settings.ini setup.py pyproject.toml
	@set -o pipefail; is_ok='import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))'; \
	if [ -e .venv/.installing ] || ! $(PY) -c "$$is_ok" 2>/dev/null; then \
	  found=; for p in $(or $(PYTHON),$$(type -ap python3.12 python3.11 python3 python)); do \
	    if "$$p" -c "$$is_ok" 2>/dev/null; then found=$$p; break; fi; done; \
	  if [ -z "$$found" ]; then echo "No working Python 3.12 or 3.11 with venv found$(if $(PYTHON), at $(PYTHON)). Install one (Debian, Ubuntu: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; fi; \
	  echo "Creating .venv with $$found ($$($$found -V))"; "$$found" -m venv --clear .venv || exit 1; fi; \
	rm -f $(READY); touch .venv/.installing; echo "Installing what constraints.txt names (the first time: 2-3 minutes, 6.5 GB)"; \
	PYTHONUNBUFFERED=1 $(PY) -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e ".[dev]" 2>&1 | tee .venv/install.log | \
	  { n=0; end='\n'; [ ! -t 1 ] || end='\033[K\r'; while read -r what name _; do name=$${name##*/}; case $$what in \
	    Collecting|Processing) n=$$((n+1)); [ ! -t 1 ] && [ $$((n % 60)) -ne 0 ] || printf "  %3d packages found, now %s$$end" $$n "$${name%%[=<>~!;]*}";; \
	    Installing) [ "$$name" != collected ] || [ $$n = 0 ] || printf '  unpacking %s packages, about a minute\033[K\n' $$n;; esac; done; } \
	  || { grep -q '^Installing collected' .venv/install.log || rm -f .venv/.installing; echo "The installation failed; its last lines (all of them: .venv/install.log; rm -rf .venv starts afresh):" >&2; grep -v '^WARNING' .venv/install.log | tail -n 8 | cut -c1-200 >&2; exit 1; }; \
	rm -f .venv/.installing; printf '%s' '$(CURDIR)' > $(READY)
