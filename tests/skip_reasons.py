"""Reasons for skips that no installation can fix. With AISLE_SKIPS_FAIL, as in CI, every other skip fails."""

NO_GPU = "this test runs only on GPUs"
NO_BF16 = "this GPU does not compute bf16"
NO_INT8_INSTRUCTIONS = "this CPU does not multiply 8-bit integers"
NOT_X86 = "this CPU is not x86-64"
NOT_GLIBC = "this C library is not glibc"
NOT_LIBGOMP = "this torch computes with another OpenMP library than libgomp"
NO_MAPPED_MEMORY = "this system does not report the memory of mapped files"
NO_REAL_DATA = "the real data is not here; set AISLE_BENCH_DATA"
INTERPRETED_ELSEWHERE = "Triton is absent here; test_triton_kernels.py runs this test"

MAY_BE_MISSING = frozenset(
    {
        NO_GPU,
        NO_BF16,
        NO_INT8_INSTRUCTIONS,
        NOT_X86,
        NOT_GLIBC,
        NOT_LIBGOMP,
        NO_MAPPED_MEMORY,
        NO_REAL_DATA,
        INTERPRETED_ELSEWHERE,
    }
)
