/*
tensor_core.h - the instructions that a matrix product on tensor cores is made of, as functions: PTX under nvcc, and on
the CPU the same with the same layout of registers. sm_80 and later.

    #include "tensor_core.h"            (includes cuda_on_cpu.h)

    ldmatrix_x4(r, row)                 four 8x8 matrices of bfloat16 from shared memory into a warp's registers
    ldmatrix_x4_trans(r, row)           the same, each matrix transposed
    mma_bf16(d, a, b)                   d (16,8) += a (16,16) b (16,8), bfloat16 in, float32 out, by one warp
    cp_async16(to, from)                16 bytes from global to shared memory, behind the thread's back
    cp_async<4 or 16>(to, from, n)      4 or 16 bytes, of which the first n (0 to all) are read and the others are 0
    cp_async_commit()                   what was begun since the last commit is one group
    cp_async_wait<N>()                  waits until at most N groups of this thread are on their way

On the CPU a copy lands at the wait, and with a seed sometimes at once: both are legal, and a missing wait shows in one
of them. The layouts are those of the PTX ISA, sections "ldmatrix" and "Matrix fragments for mma.m16n8k16": with
g = lane / 4 and t = lane % 4, a[i] holds two neighbours of row g + 8 * (i & 1) from column 2t + 8 * (i >> 1), b[i] rows
2t + 8i and 2t + 8i + 1 of column g, d[i] row g + 8 * (i >> 1), column 2t + (i & 1).
Limits: products are added in the order of k in float32; the hardware's order and rounding are not documented.
*/
#ifndef TENSOR_CORE_H
#define TENSOR_CORE_H
#include "cuda_on_cpu.h"

// Registers have no addresses: an array lies in them only if each of its indices is a constant, so the loops over one
// have to be unrolled. UNROLL for (...) asks for it; g++ knows the pragma under another name and has no need of it.
#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#define UNROLL_TWICE _Pragma("unroll 2")
#define UNROLL_NOT _Pragma("unroll 1")
#else
#define UNROLL
#define UNROLL_TWICE
#define UNROLL_NOT
#endif

#ifdef __CUDACC__
__device__ inline void ldmatrix_x4(unsigned r[4], const __nv_bfloat16 *row) {
    unsigned address = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
__device__ inline void ldmatrix_x4_trans(unsigned r[4], const __nv_bfloat16 *row) {
    unsigned address = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
__device__ inline void mma_bf16(float d[4], const unsigned a[4], const unsigned b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void cp_async16(void *to, const void *from) {
    unsigned address = (unsigned)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(address), "l"(from) : "memory");
}
template <int BYTES> __device__ inline void cp_async(void *to, const void *from, int n) {
    unsigned address = (unsigned)__cvta_generic_to_shared(to);
    if (BYTES == 16)                                // past the L1 cache: what is in shared memory is not read twice
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(address), "l"(from), "r"(n) : "memory");
    else asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                      :: "r"(address), "l"(from), "n"(BYTES), "r"(n) : "memory");
}
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ inline void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

#else
namespace cuda_on_cpu {

struct AsyncCopy { void *to; const void *from; int bytes, read, group; const void *pc; };
struct AsyncThread { std::vector<AsyncCopy> copies; int group = 0; };
inline std::vector<AsyncThread> async_threads;

CUDA_ON_CPU_RAW inline AsyncThread &async_thread() {
    if (!machine.block_hooks[0]) {                  // copies of a block that is over are forgotten
        machine.block_hooks[0] = [] { async_threads.clear(); };
    }
    size_t thread = (size_t)machine.current->thread;
    if (async_threads.size() <= thread) async_threads.resize(MAX_THREADS);
    return async_threads[thread];
}
CUDA_ON_CPU_RAW inline void land(const AsyncCopy &c) {
#ifdef CUDA_ON_CPU_CHECK
    check_pending(c.to, (size_t)c.bytes, false);
    machine.inside--;                               // the kernel's own access, though the machine makes it
    check_access(c.to, (size_t)c.bytes, true, c.pc);
    machine.inside++;
#endif
    memcpy(c.to, c.from, (size_t)c.read);
    memset((char *)c.to + c.read, 0, (size_t)(c.bytes - c.read));
}
CUDA_ON_CPU_RAW inline void copy_async(void *to, const void *from, int bytes, int read, const void *pc,
                                       const char *file, int line) {
#ifdef CUDA_ON_CPU_CHECK
    check_access(from, (size_t)read, false, pc);    // from here to the wait it may read and write at any time
    check_access(to, (size_t)bytes, true, pc);
#else
    (void)pc;
#endif
    Inside guard;
    if (!machine.current) fail("cp.async at %s:%d is called by the host", file, line);
    if ((uintptr_t)to % (uintptr_t)bytes || (uintptr_t)from % (uintptr_t)bytes)
        fail("cp.async at %s:%d: %p or %p is not aligned to %d bytes", file, line, to, from, bytes);
    if (read < 0 || read > bytes) fail("cp.async at %s:%d is to read %d of %d bytes", file, line, read, bytes);
    AsyncThread &t = async_thread();
    AsyncCopy c = {to, from, bytes, read, t.group, pc};
#ifdef CUDA_ON_CPU_CHECK
    check_pending(to, (size_t)bytes, true);
#else
    if (machine.random_state && random_number() & 1) return land(c);
#endif
    t.copies.push_back(c);
}
CUDA_ON_CPU_RAW inline float bf16_half(unsigned word, int high) {
    return __uint_as_float((high ? word >> 16 : word & 0xffff) << 16);
}

// What the lanes put into their slots: where their registers are. The last lane to come computes for all.
struct MmaRegisters { float *d; const unsigned *a, *b; };
CUDA_ON_CPU_RAW inline void multiply(Slots &slots) {
    float a[16][16], b[16][8];
    MmaRegisters r;
    for (int l = 0; l < WARP; l++) {
        int g = l / 4, t = l % 4;
        memcpy(&r, slots[l], sizeof r);
        for (int high = 0; high < 2; high++) {
            for (int i = 0; i < 4; i++) a[g + 8 * (i & 1)][2 * t + high + 8 * (i >> 1)] = bf16_half(r.a[i], high);
            for (int i = 0; i < 2; i++) b[2 * t + high + 8 * i][g] = bf16_half(r.b[i], high);
        }
    }
    for (int l = 0; l < WARP; l++) {
        int g = l / 4, t = l % 4;
        memcpy(&r, slots[l], sizeof r);
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < 16; k++) r.d[i] += a[g + 8 * (i >> 1)][k] * b[k][2 * t + (i & 1)];
    }
}
} // namespace cuda_on_cpu

// Lane l names row l % 8 of matrix l / 8, 16 bytes; register i then holds this lane's two elements of matrix i: of row
// l / 4 columns 2 (l % 4) and the next, or, transposed, these two rows of that column.
namespace cuda_on_cpu {
// bytes of row `row` from a column on
CUDA_ON_CPU_RAW inline void read_matrix(void *to, Slots &slots, int row, int column, size_t bytes, const void *pc) {
    const uint16_t *numbers;
    memcpy(&numbers, slots[row], sizeof numbers);
#ifdef CUDA_ON_CPU_CHECK
    machine.inside--;
    check_access(numbers + column, bytes, false, pc);
    machine.inside++;
#else
    (void)pc;
#endif
    memcpy(to, numbers + column, bytes);
}
CUDA_ON_CPU_RAW inline void load_matrices(unsigned r[4], const void *row, bool transposed, const void *pc,
                                          const char *file, int line) {
    Inside guard;
    if ((uintptr_t)row % 16) fail("ldmatrix at %s:%d: the row at %p is not aligned to 16 bytes", file, line, row);
    Slots &slots = warp_meet(~0u, &row, sizeof row, "ldmatrix", file, line, nothing);
    int one = lane() / 4, two = lane() % 4 * 2;
    for (int i = 0; i < 4; i++) {
        if (!transposed) read_matrix(&r[i], slots, 8 * i + one, two, 4, pc);
        else for (int j = 0; j < 2; j++) read_matrix((uint16_t *)&r[i] + j, slots, 8 * i + two + j, one, 2, pc);
    }
}
} // namespace cuda_on_cpu
CUDA_ON_CPU_RAW inline void ldmatrix_x4(unsigned r[4], const __nv_bfloat16 *row, CUDA_ON_CPU_SITE) {
    cuda_on_cpu::load_matrices(r, row, false, __builtin_return_address(0), file, line);
}
CUDA_ON_CPU_RAW inline void ldmatrix_x4_trans(unsigned r[4], const __nv_bfloat16 *row, CUDA_ON_CPU_SITE) {
    cuda_on_cpu::load_matrices(r, row, true, __builtin_return_address(0), file, line);
}
CUDA_ON_CPU_RAW inline void mma_bf16(float d[4], const unsigned a[4], const unsigned b[2], CUDA_ON_CPU_SITE) {
    cuda_on_cpu::MmaRegisters r = {d, a, b};
    cuda_on_cpu::warp_meet(~0u, &r, sizeof r, "mma.sync", file, line, cuda_on_cpu::multiply);
}
template <int BYTES> CUDA_ON_CPU_RAW void cp_async(void *to, const void *from, int n, CUDA_ON_CPU_SITE) {
    static_assert(BYTES == 4 || BYTES == 16, "4 or 16 bytes");
    cuda_on_cpu::copy_async(to, from, BYTES, n, __builtin_return_address(0), file, line);
}
CUDA_ON_CPU_RAW inline void cp_async16(void *to, const void *from, CUDA_ON_CPU_SITE) {
    cuda_on_cpu::copy_async(to, from, 16, 16, __builtin_return_address(0), file, line);
}
CUDA_ON_CPU_RAW inline void cp_async_commit() { cuda_on_cpu::Inside guard; cuda_on_cpu::async_thread().group++; }
template <int N> CUDA_ON_CPU_RAW inline void cp_async_wait() {
    using namespace cuda_on_cpu;
    Inside guard;
    AsyncThread &t = async_thread();
    size_t kept = 0;
    for (const AsyncCopy &c : t.copies) {
        if (c.group < t.group - N) land(c);
        else t.copies[kept++] = c;
    }
    t.copies.resize(kept);
}
#endif // not nvcc

// Two neighbours as ldmatrix and mma.sync have them: the first in the low half.
__device__ inline unsigned bf16_word(__nv_bfloat162 two) {
    unsigned word;
    memcpy(&word, &two, sizeof word);
    return word;
}
#endif
