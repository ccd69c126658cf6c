# Short names for the commands that matter; CMakePresets.json and the scripts do the work.
.PHONY: all test quick asan tsan fuzz format lint layers golden clean

all: ; ./setup
test: ; ./test
quick: ; ./test --quick
asan: ; cmake --workflow --preset asan
tsan: ; cmake --workflow --preset tsan

# Sixty seconds of libFuzzer for each target; new inputs go to build/fuzz/found/NAME.
fuzz:
	cmake --preset fuzz && cmake --build --preset fuzz
	for target in build/fuzz/tests/fuzz/fuzz_*; do name=$${target##*fuzz_}; \
	  mkdir -p build/fuzz/found/$$name && $$target -max_total_time=60 -max_len=65536 \
	    build/fuzz/found/$$name tests/fuzz/corpus/$$name || exit 1; done

format: ; tools/check_format.sh --fix
lint: ; clang-tidy -p build/cpu --quiet $$(git ls-files 'src/*.cc' 'apps/*.cc')
layers: ; tools/check_layers.py --self-test && tools/check_layers.py

# Makes the golden cases anew: needs Python with torch, transformers 5.12 and safetensors.
golden: ; python3 tests/golden/make_cases.py tests/golden

clean: ; rm -rf build
