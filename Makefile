# Everything sets itself up in .venv; `make` alone lists the targets.
# Another interpreter: make test PYTHON=/path/to/python3.12
SHELL := /bin/bash
VENV  := $(CURDIR)/.venv
PY    := $(VENV)/bin/python
READY := .venv/.ready
ARGS  ?=

.PHONY: help setup demo test lab docs bench measures notebooks FORCE
help: ## List the targets
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' Makefile | while IFS=$$'\t' read -r t d; do printf '  make %-11s%s\n' "$$t" "$$d"; done

setup: $(READY) ## Create .venv and install everything, pinned (the other targets do it by themselves)
	@echo 'Ready: .venv ('$$($(PY) -V)')'

demo: $(READY) ## Train Neural Resizer + a small Swin on synthetic faces, CPU, about 2 minutes
	@$(VENV)/bin/fer_nr_run nbs/experiments/params/demo.yaml $(ARGS)

test: $(READY) ## Run the whole gate in two processes: notebooks clean and exported, tests, site, notebooks run
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lab: $(READY) ## Open JupyterLab in nbs/, at the notebook with the controls
	@cd nbs && $(PY) -m jupyterlab 10_lab.ipynb $(ARGS)

docs: $(READY) ## Build the site into _docs/
	@$(PY) -c 'from tools.docs import build_site; print(build_site())'

bench: $(READY) ## Measure images per second of training here, and the cost of loading and augmentation
	@$(PY) -m tools.bench $(ARGS)

measures: $(READY) ## Print how notebooks and modules read: prose, lines, widths, syntax nodes
	@$(PY) -m tools.measures $(ARGS)

notebooks: $(READY) ## Run every notebook in place, keep the outputs, clean, export, write README.md
	@$(PY) -c 'from tools.docs import refresh; refresh()'

# A set-up that went well writes the folder into .ready at its end: a moved .venv does not work, and is set up again.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
$(READY): FORCE
endif
$(READY): constraints.txt settings.ini setup.py pyproject.toml
	@bash tools/setup.sh '$(PYTHON)'
