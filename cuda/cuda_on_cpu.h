/*
cuda_on_cpu.h - compiles plain CUDA C++ with g++ or clang++ and runs it on the CPU, one fiber per CUDA thread.

In a .cu file:                      #include "cuda_on_cpu.h"        (instead of cuda_runtime.h; -Icuda finds it)
On a GPU:                           nvcc -std=c++17 prog.cu
On the CPU:                         g++ -std=c++17 -g -x c++ prog.cu
... bounds of global and shared:    g++ -std=c++17 -g -x c++ -fsanitize=address,undefined prog.cu
... races and all else:             g++ -std=c++17 -g -O1 -fno-tree-sra -x c++ -DCUDA_ON_CPU_CHECK -fsanitize=thread \
                                        prog.cu -nodefaultlibs -lstdc++ -lm -lc -lgcc_s -lgcc
The last one is described in cuda_on_cpu_check.h. clang++ does the same; what its last line is, stands there.

EXAMPLE:
    #include "cuda_on_cpu.h"

    __global__ void reverse(float *x) {
        __shared__ float s[64];
        s[threadIdx.x] = x[threadIdx.x];
        __syncthreads();                                // without it: NaN here, a race reported by the checker
        x[threadIdx.x] = s[63 - threadIdx.x];
    }

    int main(void) {
        float host[64], *x;
        for (int i = 0; i < 64; i++) host[i] = (float)i;
        cudaMalloc(&x, sizeof host);
        cudaMemcpy(x, host, sizeof host, cudaMemcpyHostToDevice);
        launch(reverse, 1, 64, 0, 0, x);                // kernel, grid, block, dynamic shared bytes, stream, arguments
        cudaMemcpy(host, x, sizeof host, cudaMemcpyDeviceToHost);
        cudaFree(x);
        printf("%g %g\n", host[0], host[63]);           // 63 0
    }

Two spellings differ from a textbook: launch(kernel, grid, block, shared bytes, stream, arguments...), since <<< >>> is
no C++, and DYNAMIC_SHARED(float, s) in place of extern __shared__ float s[]. Everything else is CUDA.

WHAT IT FINDS WITHOUT A CHECKER
Memory from cudaMalloc, cudaMallocHost and shared memory start as bytes 0xff, which are NaN, so what was not written
shows in the result. Barriers and warp operations know who has to come: divergent or abandoned barriers, wrong masks and
lanes are errors with file and line. Copies are checked against the allocations, kernel arguments against the devices,
launches against the limits of a GPU. What was not freed is listed at the end, and the program then ends with 95.
Streams do nothing until somebody waits for them: a forgotten cudaStreamSynchronize shows as missing data.

SCHEDULE   One operating system thread, blocks one after another. A warp runs as far as it can, then the next one: of
all legal orders the most lopsided, because in that one a missing barrier shows best. A uniformly random order hides
most of them. With seed 0 warps and blocks come in order, which is what a debugger wants; other seeds shuffle blocks,
warps, lanes and streams. The idea of few random priorities instead of many random choices is PCT's: Burckhardt et al.,
A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs, ASPLOS 2010.

ENVIRONMENT
    CUDA_ON_CPU_SEED       0        the schedule
    CUDA_ON_CPU_DEVICES    1        number of devices (their memories are told apart)
    CUDA_ON_CPU_STACK      65536    bytes of stack for each thread that waits (262144 with AddressSanitizer)
    CUDA_ON_CPU_BLOCKING   off      each operation runs when it is issued, so all happens in the order of the program
    CUDA_ON_CPU_EXITED_OK  off      threads that returned count as arrived at __syncthreads, as on sm_70 and later
    CUDA_ON_CPU_LEAKS      1        0: say nothing of memory that was not freed
    CUDA_ON_CPU_ABORT      off      abort() on an error, for a debugger, instead of ending with status 99

LIMITS   The C++ is run, not the machine code, with the host's arithmetic. Kernels must not wait for another block. No
weak memory order, textures, cooperative groups, clusters, TMA or wgmma. With g++ before version 14 shared arrays in
template functions other than kernels are not filled with NaN. The fast switch between fibers and the names of kernels
need Linux on x86-64 or AArch64; elsewhere it is ucontext, several times slower, and untested.

READING ORDER   1 words of CUDA   2 types   3 the machine and its fibers   4 barriers and warps   5 streams
6 memory   7 launch   8 device functions   9 the host's functions.
*/
#ifndef CUDA_ON_CPU_H
#define CUDA_ON_CPU_H
#if defined(__APPLE__) && !defined(_XOPEN_SOURCE)
#define _XOPEN_SOURCE 600           // ucontext.h asks for it
#define _DARWIN_C_SOURCE 1
#endif

#ifdef __CUDACC__
#include <cstdio>
#include <cstdlib>
#include <cuda_runtime.h>
#include <cuda_bf16.h>

// Arguments are converted to the kernel's types here, as <<< >>> does it, and checked by the compiler in both worlds.
template <class... Parameters, class... Arguments>
static inline void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                          cudaStream_t stream, Arguments... arguments) {
    kernel<<<grid, block, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
}
typedef dim3 LaunchGrid;            // of launch(), for who passes it on
#define DYNAMIC_SHARED(type, name) \
    extern __shared__ __align__(128) unsigned char name##_bytes[]; \
    type *name = reinterpret_cast<type *>(name##_bytes)

#else
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <cxxabi.h>
#include <elf.h>
#include <link.h>
#endif

// ---- 1 words of CUDA ------------------------------------------------------------------------------------------------

#if defined(__SANITIZE_ADDRESS__)
#define CUDA_ON_CPU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUDA_ON_CPU_ASAN 1
#endif
#endif

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

// A shared array is a static one, since only one block runs at a time. Each gets a section of its own, so that all of
// them can be found in the executable and filled with NaN before a block. AddressSanitizer puts no red zones around
// what has a section, and bounds matter more there.
#if defined(__linux__) && !defined(CUDA_ON_CPU_ASAN)
#define CUDA_ON_CPU_TEXT_(x) #x
#define CUDA_ON_CPU_TEXT(x) CUDA_ON_CPU_TEXT_(x)
#define __shared__ static __attribute__((section(".cuda_on_cpu_shared." CUDA_ON_CPU_TEXT(__COUNTER__))))
#else
#define __shared__ static
#endif
#define DYNAMIC_SHARED(type, name) type *name = reinterpret_cast<type *>(cuda_on_cpu::dynamic_shared)

// What belongs to the machine and not to the kernel is hidden from the sanitizers.
#define CUDA_ON_CPU_RAW __attribute__((no_sanitize("thread", "address", "undefined"), noinline))
// The same, for what is called at each access of a kernel, and from such functions alone.
#define CUDA_ON_CPU_HOT __attribute__((no_sanitize("thread", "address", "undefined"), always_inline))
// As last parameters: the caller's file and line, without a macro around each function.
#define CUDA_ON_CPU_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

#ifdef CUDA_ON_CPU_ASAN
extern "C" void __sanitizer_start_switch_fiber(void **, const void *, size_t);
extern "C" void __sanitizer_finish_switch_fiber(void *, const void **, size_t *);
extern "C" void __asan_poison_memory_region(void const volatile *, size_t);
extern "C" void __asan_unpoison_memory_region(void const volatile *, size_t);
#endif

// ---- 2 types --------------------------------------------------------------------------------------------------------

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Sizes and alignments of CUDA's vector types: three components are aligned as one, four as all of them together.
#define CUDA_ON_CPU_VECTOR(type, name) \
    struct name##1 { type x; }; \
    struct alignas(2 * sizeof(type)) name##2 { type x, y; }; \
    struct name##3 { type x, y, z; }; \
    struct alignas(4 * sizeof(type) < 16 ? 4 * sizeof(type) : 16) name##4 { type x, y, z, w; }; \
    static inline name##1 make_##name##1(type x) { return {x}; } \
    static inline name##2 make_##name##2(type x, type y) { return {x, y}; } \
    static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; } \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
CUDA_ON_CPU_VECTOR(signed char, char)
CUDA_ON_CPU_VECTOR(unsigned char, uchar)
CUDA_ON_CPU_VECTOR(short, short)
CUDA_ON_CPU_VECTOR(unsigned short, ushort)
CUDA_ON_CPU_VECTOR(int, int)
CUDA_ON_CPU_VECTOR(unsigned, uint)
CUDA_ON_CPU_VECTOR(long long, longlong)
CUDA_ON_CPU_VECTOR(unsigned long long, ulonglong)
CUDA_ON_CPU_VECTOR(float, float)
CUDA_ON_CPU_VECTOR(double, double)
#undef CUDA_ON_CPU_VECTOR

// No constructors: g++ would guard shared arrays of this type with a once-flag.
struct __nv_bfloat16 {
    uint16_t bits;
    operator float() const {
        uint32_t wide = (uint32_t)bits << 16;
        float f;
        memcpy(&f, &wide, 4);
        return f;
    }
};
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };

enum cudaError_t {
    cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2, cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidDevice = 101, cudaErrorPeerAccessAlreadyEnabled = 704, cudaErrorNotReady = 600
};
enum cudaMemcpyKind {
    cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault
};
enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8, cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed
};
enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
enum { cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
enum { cudaHostAllocDefault = 0 };
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin;
    int warpSize, maxThreadsPerBlock, multiProcessorCount, major, minor;
};

// ---- 3 the machine and its fibers -----------------------------------------------------------------------------------

// The switch saves what a called function has to keep, and continues on another stack: the System V ABI on x86-64,
// AAPCS64 on AArch64. ucontext does the same with two system calls.
#if defined(__linux__) && defined(__x86_64__) && !defined(CUDA_ON_CPU_UCONTEXT)
extern "C" void cuda_on_cpu_switch(void **save, void *to) __asm__("cuda_on_cpu_switch_code");
__asm__(
    ".pushsection .text\n"
    ".weak cuda_on_cpu_switch_code\n"
    ".type cuda_on_cpu_switch_code,@function\n"
    "cuda_on_cpu_switch_code:\n"
    "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
    "    movq %rsp,(%rdi)\n"
    "    movq %rsi,%rsp\n"
    "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
    "    ret\n"
    ".popsection\n");
#elif defined(__linux__) && defined(__aarch64__) && !defined(CUDA_ON_CPU_UCONTEXT)
extern "C" void cuda_on_cpu_switch(void **save, void *to) __asm__("cuda_on_cpu_switch_code");
__asm__(
    ".pushsection .text\n"
    ".weak cuda_on_cpu_switch_code\n"
    "cuda_on_cpu_switch_code:\n"
    "    sub sp,sp,#160\n"
    "    stp x19,x20,[sp,#0]\n    stp x21,x22,[sp,#16]\n    stp x23,x24,[sp,#32]\n    stp x25,x26,[sp,#48]\n"
    "    stp x27,x28,[sp,#64]\n    stp x29,x30,[sp,#80]\n"
    "    stp d8,d9,[sp,#96]\n    stp d10,d11,[sp,#112]\n    stp d12,d13,[sp,#128]\n    stp d14,d15,[sp,#144]\n"
    "    mov x9,sp\n    str x9,[x0]\n"
    "    mov sp,x1\n"
    "    ldp x19,x20,[sp,#0]\n    ldp x21,x22,[sp,#16]\n    ldp x23,x24,[sp,#32]\n    ldp x25,x26,[sp,#48]\n"
    "    ldp x27,x28,[sp,#64]\n    ldp x29,x30,[sp,#80]\n"
    "    ldp d8,d9,[sp,#96]\n    ldp d10,d11,[sp,#112]\n    ldp d12,d13,[sp,#128]\n    ldp d14,d15,[sp,#144]\n"
    "    add sp,sp,#160\n"
    "    ret\n"
    ".popsection\n");
#else
#ifndef CUDA_ON_CPU_UCONTEXT
#define CUDA_ON_CPU_UCONTEXT 1
#endif
#include <ucontext.h>
#endif

namespace cuda_on_cpu {

enum { WARP = 32, MAX_THREADS = 1024, SHARED_DEFAULT = 48 << 10, SHARED_MAX = 227 << 10, MAX_DEVICES = 16 };
enum { EXIT_LEAK = 95, EXIT_CHECK = 97, EXIT_STUCK = 98, EXIT_ERROR = 99 };
enum ThreadState { UNSTARTED, READY, AT_BARRIER, AT_MEETING, RETURNED };

alignas(128) inline unsigned char dynamic_shared[SHARED_MAX + 1024];

struct Fiber {
    void *stack_pointer = nullptr;                  // where it was left
    char *stack = nullptr;
    size_t stack_bytes = 0;
    void *fake_stack = nullptr;                     // AddressSanitizer's
    int thread = -1;                                // the CUDA thread that it runs, counted within the block
    unsigned warp_syncs = 0;                        // grows with each __syncwarp of this thread; for the checker
#ifdef CUDA_ON_CPU_UCONTEXT
    ucontext_t context;
#endif
};

struct Thread {
    uint3 index = {0, 0, 0};
    ThreadState state = UNSTARTED;
    Fiber *fiber = nullptr;
    const char *waits_in = "", *file = "";          // where it waits
    int line = 0;
    unsigned mask = 0;                              // with which lanes
};

// A warp operation: lanes put their values into slots and wait; the last one to come lets all go on. Two sets of slots,
// because a fast lane can be in the next operation while a slow one still reads the results of this one.
struct Meeting {
    unsigned mask = 0, arrived = 0, count = 0;
    const char *operation = "", *file = "";
    int line = 0;
    unsigned char slot[2][WARP][32];
};

struct Region { char *start; size_t bytes; };
struct Kernel {
    std::string name;
    std::vector<Region> shared;                     // what has to be filled with NaN before each block
    size_t shared_limit = SHARED_DEFAULT;           // cudaFuncSetAttribute raises it
};
struct Allocation {
    size_t bytes;
    int device;                                     // HOST for cudaMallocHost
    const char *file;
    int line;
};
enum { HOST = -1 };

inline bool is_on(const char *variable) {           // not where it is empty or 0
    const char *value = getenv(variable);
    return value && *value && strcmp(value, "0");
}

struct Stream;
struct Graph { std::vector<std::function<void()>> steps; };
struct Operation {
    Stream *stream = nullptr;
    unsigned long number = 0;                       // in order of issue, over all streams
    std::function<void()> run;
    std::vector<std::shared_ptr<Operation>> after;  // of other streams; its own stream is in order anyway
    bool done = false;
};
typedef std::shared_ptr<Operation> OperationRef;
struct Stream {
    int device = 0;
    bool blocking = true;                           // waits for, and is waited for by, the null stream
    std::deque<OperationRef> queue;
    OperationRef last;                              // issued most recently, perhaps done
    Graph *capture = nullptr;                       // what is issued goes there instead
};
struct Event {
    OperationRef recorded;
    std::shared_ptr<double> seconds;
    Graph *capture = nullptr;
};

// Functions and variables of this executable, from its own symbol table: names of kernels, and where shared arrays lie.
struct Symbol { uintptr_t address; size_t bytes; bool function; std::string name; };
struct Symbols {
    std::vector<Symbol> all;
    std::vector<Region> shared;                     // the sections that __shared__ makes
    CUDA_ON_CPU_RAW Symbols() {
#if defined(__linux__)
        uintptr_t base = 0;
        dl_iterate_phdr([](dl_phdr_info *info, size_t, void *to) {
            *(uintptr_t *)to = info->dlpi_addr;     // the program itself is the first in the list
            return 1;
        }, &base);
        FILE *f = fopen("/proc/self/exe", "rb");
        if (!f) return;
        ElfW(Ehdr) header;
        if (fread(&header, sizeof header, 1, f) == 1 && header.e_shnum) {
            std::vector<ElfW(Shdr)> sections(header.e_shnum);
            if (read(f, header.e_shoff, sections)) load(f, base, sections, header.e_shstrndx);
        }
        fclose(f);
#endif
    }
#if defined(__linux__)
    template <class T> CUDA_ON_CPU_RAW static bool read(FILE *f, size_t offset, std::vector<T> &to) {
        return !fseek(f, (long)offset, SEEK_SET) && fread(to.data(), sizeof(T), to.size(), f) == to.size();
    }
    CUDA_ON_CPU_RAW void load(FILE *f, uintptr_t base, const std::vector<ElfW(Shdr)> &sections, size_t names_index) {
        std::vector<char> names(sections[names_index].sh_size);
        if (!read(f, sections[names_index].sh_offset, names)) return;
        for (const ElfW(Shdr) &s : sections) {
            if (!strncmp(&names[s.sh_name], ".cuda_on_cpu_shared", 19))
                shared.push_back({(char *)(base + s.sh_addr), s.sh_size});
            if (s.sh_type != SHT_SYMTAB) continue;
            std::vector<ElfW(Sym)> symbols(s.sh_size / sizeof(ElfW(Sym)));
            std::vector<char> texts(sections[s.sh_link].sh_size);
            if (!read(f, s.sh_offset, symbols) || !read(f, sections[s.sh_link].sh_offset, texts)) return;
            for (const ElfW(Sym) &y : symbols) {
                int type = y.st_info & 15;
                if ((type == STT_FUNC || type == STT_OBJECT) && y.st_value)
                    all.push_back({base + y.st_value, y.st_size, type == STT_FUNC, &texts[y.st_name]});
            }
        }
    }
#endif
};

struct Machine {
    uint3 thread_index = {0, 0, 0}, block_index = {0, 0, 0};    // threadIdx and blockIdx are these
    dim3 block_size, grid_size;

    std::vector<Thread> threads;                    // of the block that runs
    std::vector<int> start_order;                   // threads in the order of their first steps
    size_t started = 0;
    int rank[WARP];                                 // of each warp; 0 goes first
    std::vector<int> ready[WARP];                   // by rank: threads that can go on
    unsigned ready_ranks = 0;                       // one bit for each list above that is not empty
    std::vector<int> going;                         // threads of one warp that go on, one after the other
    size_t gone = 0;                                // how many of them have done so
    std::vector<std::unique_ptr<Meeting>> meetings[WARP];
    int thread_count = 0, returned = 0, waiting = 0;
    unsigned barriers = 0;                          // __syncthreads that this block has passed
    int vote_sum[2] = {0, 0};                       // of __syncthreads_count and its cousins; two, as in Meeting

    Fiber host, *current = nullptr;                 // current: null while the host or the scheduler runs
    std::vector<Fiber *> fibers, idle;
    int inside = 0;                                 // > 0: what is read and written now is the machine's own business

    Kernel *kernel = nullptr;
    const char *launch_file = "";
    int launch_line = 0;
    void (*entry)(void *) = nullptr;                // calls the kernel with its arguments
    void *arguments = nullptr;
    size_t argument_bytes = 0, dynamic_bytes = 0;
    std::map<const void *, Kernel> kernels;
    std::unique_ptr<Symbols> symbols;

    std::map<uintptr_t, Allocation> memory, freed;  // by address
    int device = 0, devices = 1;                    // of the host thread: cudaSetDevice
    int running_device = 0;                         // of the operation that runs
    bool peer[MAX_DEVICES][MAX_DEVICES] = {};       // cudaDeviceEnablePeerAccess
    Stream null_stream[MAX_DEVICES];
    std::vector<Stream *> streams;
    unsigned long issued = 0;
    bool running = false;                           // an operation runs

    uint64_t random_state = 0;                      // 0: everything in order
    size_t stack_bytes = 65536;
    bool exited_ok = false, blocking = false;
    void (*block_hooks[2])() = {};                  // begin and end of a block, for tensor_core.h
    Machine();
    ~Machine();
};
inline Machine machine;

struct Inside {                                     // while one of these lives, the machine works, not the kernel
    CUDA_ON_CPU_RAW Inside() { machine.inside++; }
    CUDA_ON_CPU_RAW ~Inside() { machine.inside--; }
};

#ifdef CUDA_ON_CPU_CHECK                            // in cuda_on_cpu_check.h
void check_launch();
void check_block_begin();
void check_launch_end();
void check_access(const void *p, size_t bytes, bool write, const void *pc, bool atomic = false);
void check_pending(const void *p, size_t bytes, bool pending);
void *check_allocate(size_t bytes, int device);
void check_release(void *p, size_t bytes);
void check_written(const void *p, size_t bytes);
int check_finish();
#endif

[[noreturn]] CUDA_ON_CPU_RAW inline void stop(int status) {
    fflush(stdout);
    fflush(stderr);
    if (is_on("CUDA_ON_CPU_ABORT")) abort();
    _exit(status);
}
CUDA_ON_CPU_RAW inline void print_place() {
    if (!machine.current) return;
    uint3 b = machine.block_index, t = machine.thread_index;
    fprintf(stderr, "  in kernel %s, block (%u,%u,%u), thread (%u,%u,%u), launched at %s:%d\n",
            machine.kernel->name.c_str(), b.x, b.y, b.z, t.x, t.y, t.z, machine.launch_file, machine.launch_line);
}
CUDA_ON_CPU_RAW inline void print_message(const char *format, va_list values) {
    fflush(stdout);
    fprintf(stderr, "cuda_on_cpu: ");
    vfprintf(stderr, format, values);
    fprintf(stderr, "\n");
}
[[noreturn]] __attribute__((format(printf, 1, 2))) CUDA_ON_CPU_RAW inline void fail(const char *format, ...) {
    va_list values;
    va_start(values, format);
    print_message(format, values);
    va_end(values);
    print_place();
    stop(EXIT_ERROR);
}

CUDA_ON_CPU_RAW inline uint64_t random_number() {   // xorshift64, Marsaglia 2003
    uint64_t &x = machine.random_state;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return x;
}
CUDA_ON_CPU_RAW inline void shuffle(std::vector<int> &list, size_t from) {  // only with a seed
    if (!machine.random_state) return;
    for (size_t i = list.size(); i > from + 1; i--) std::swap(list[i - 1], list[from + random_number() % (i - from)]);
}

CUDA_ON_CPU_RAW inline void switch_fiber(Fiber *from, Fiber *to) {
#ifdef CUDA_ON_CPU_ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_bytes);
#endif
#ifdef CUDA_ON_CPU_UCONTEXT
    swapcontext(&from->context, &to->context);
#else
    cuda_on_cpu_switch(&from->stack_pointer, to->stack_pointer);
#endif
#ifdef CUDA_ON_CPU_ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

// May the next thread that has not begun begin now? Only if no warp of higher priority can go on.
CUDA_ON_CPU_RAW inline bool may_start() {
    Machine &m = machine;
    if (m.started == m.start_order.size()) return false;
    return !m.ready_ranks || m.rank[m.start_order[m.started] / WARP] <= __builtin_ctz(m.ready_ranks);
}

void fiber_main();
Fiber *new_fiber();

// Who runs next: the rest of the warp that is going on, else a thread that may begin, else the ready threads of the
// warp of highest priority, each until it waits. The host, if nobody can.
CUDA_ON_CPU_RAW inline Fiber *choose() {
    Machine &m = machine;
    if (m.gone == m.going.size()) {
        if (may_start()) {
            if (m.idle.empty()) m.idle.push_back(new_fiber());
            Fiber *f = m.idle.back();
            m.idle.pop_back();
            return f;
        }
        if (!m.ready_ranks) return &m.host;
        int rank = __builtin_ctz(m.ready_ranks);
        m.going.clear();
        m.going.swap(m.ready[rank]);
        m.gone = 0;
        m.ready_ranks &= ~(1u << rank);
        shuffle(m.going, 0);
    }
    return m.threads[m.going[m.gone++]].fiber;
}
// Fibers switch to each other; back to the host only when none of them can go on.
CUDA_ON_CPU_RAW inline void leave(Fiber *me) {
    Fiber *next = choose();
    machine.current = next == &machine.host ? nullptr : next;
    if (next != me) switch_fiber(me, next);
}

// A fiber runs threads back to back, one after the other on the same stack. Only a thread that waits keeps its stack,
// and the next one gets another fiber: a kernel without barriers never switches.
CUDA_ON_CPU_RAW inline void fiber_main() {
    Machine &m = machine;
#ifdef CUDA_ON_CPU_ASAN
    const void *stack;
    size_t bytes;
    __sanitizer_finish_switch_fiber(nullptr, &stack, &bytes);
    if (!m.host.stack) m.host.stack = (char *)stack, m.host.stack_bytes = bytes;
#endif
    for (;;) {
        Fiber *me = m.current;
        while (may_start()) {
            int t = m.start_order[m.started++];
            m.threads[t].fiber = me;
            m.threads[t].state = READY;
            me->thread = t, me->warp_syncs = 0;
            m.thread_index = m.threads[t].index;
            m.inside = 0;
            m.entry(m.arguments);
            m.inside = 1;
            m.threads[t].state = RETURNED;
            m.returned++;
        }
        m.idle.push_back(me);
        leave(me);
    }
}

// Below each stack lies address space that faults when a stack grows into it: much of it, so that a large local array
// does not reach over it into the next stack, and so that valgrind, which takes 2,000,000 bytes for the limit, sees a
// change of stacks and not a large frame.
enum { GUARD_BYTES = 1 << 21 };
CUDA_ON_CPU_RAW inline Fiber *new_fiber() {
    Fiber *f = new Fiber;
    size_t guard = GUARD_BYTES, page = (size_t)sysconf(_SC_PAGESIZE);
    int flags = MAP_PRIVATE | MAP_ANON;
#ifdef MAP_NORESERVE
    flags |= MAP_NORESERVE;
#endif
    f->stack_bytes = (machine.stack_bytes + page - 1) / page * page;
    char *pages = (char *)mmap(nullptr, f->stack_bytes + guard, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (pages == MAP_FAILED) fail("no memory for the stack of another thread, %zu bytes. Lower CUDA_ON_CPU_STACK?",
                                  f->stack_bytes);
    mprotect(pages, guard, PROT_NONE);
    f->stack = pages + guard;
    machine.fibers.push_back(f);
#ifdef CUDA_ON_CPU_UCONTEXT
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = f->stack_bytes;
    f->context.uc_link = nullptr;
    makecontext(&f->context, fiber_main, 0);
#elif defined(__x86_64__)
    void **top = (void **)(f->stack + f->stack_bytes) - 10;     // 6 registers, the address to go to, 3 of alignment
    memset(top, 0, 10 * sizeof *top);
    top[6] = (void *)fiber_main;
    f->stack_pointer = top;
#else
    void **top = (void **)(f->stack + f->stack_bytes - 160);
    memset(top, 0, 160);
    top[11] = (void *)fiber_main;                   // x30, the link register
    f->stack_pointer = top;
#endif
    return f;
}

// ---- 4 barriers and warps -------------------------------------------------------------------------------------------

CUDA_ON_CPU_RAW inline void wake(int thread) {
    int rank = machine.rank[thread / WARP];
    machine.threads[thread].state = READY;
    machine.ready[rank].push_back(thread);
    machine.ready_ranks |= 1u << rank;
}

CUDA_ON_CPU_RAW inline void wait_for(ThreadState state, const char *what, unsigned mask, const char *file, int line) {
    Machine &m = machine;
    Fiber *me = m.current;
    Thread &t = m.threads[me->thread];
    t.state = state, t.waits_in = what, t.mask = mask, t.file = file, t.line = line;
    uint3 index = m.thread_index;
    int inside = m.inside;
    leave(me);                                      // comes back when somebody has chosen this fiber
    m.thread_index = index;
    m.inside = inside;
}

// Nobody can go on. Says who waits where, threads with the same fate in one line.
[[noreturn]] CUDA_ON_CPU_RAW inline void stuck() {
    Machine &m = machine;
    uint3 b = m.block_index;
    fflush(stdout);
    fprintf(stderr, "cuda_on_cpu: DEADLOCK in kernel %s, block (%u,%u,%u), launched at %s:%d: no thread can go on\n",
            m.kernel->name.c_str(), b.x, b.y, b.z, m.launch_file, m.launch_line);
    for (int from = 0, to; from < m.thread_count; from = to) {
        const Thread &t = m.threads[from];
        auto same = [&](const Thread &o) {
            return o.state == t.state && o.line == t.line && o.waits_in == t.waits_in && o.mask == t.mask;
        };
        for (to = from + 1; to < m.thread_count && same(m.threads[to]); to++) {}
        if (t.state == RETURNED) fprintf(stderr, "  threads %d..%d returned\n", from, to - 1);
        else if (t.state == AT_MEETING)
            fprintf(stderr, "  threads %d..%d wait in %s at %s:%d, mask %08x\n", from, to - 1, t.waits_in, t.file,
                    t.line, t.mask);
        else fprintf(stderr, "  threads %d..%d wait in %s at %s:%d\n", from, to - 1, t.waits_in, t.file, t.line);
    }
    fprintf(stderr, "All threads of a block have to reach the same __syncthreads, all lanes of a mask the same warp "
                    "operation.\n");
    stop(EXIT_STUCK);
}

CUDA_ON_CPU_RAW inline void release_barrier() {
    machine.waiting = 0;
    machine.barriers++;
    machine.vote_sum[machine.barriers & 1] = 0;     // the next barrier's; this one's is read by those who wake up
    for (int i = 0; i < machine.thread_count; i++)
        if (machine.threads[i].state == AT_BARRIER) wake(i);
}

// Returns the sum of all threads' values.
CUDA_ON_CPU_RAW inline int block_barrier(int value, const char *what, const char *file, int line) {
    Inside guard;
    Machine &m = machine;
    if (!m.current) fail("%s at %s:%d is called by the host", what, file, line);
    if (m.waiting) {
        for (const Thread &t : m.threads) {
            if (t.state != AT_BARRIER) continue;
            if (t.line == line && !strcmp(t.file, file)) break;
            fail("divergent %s: this thread is at %s:%d, another one of the block waits at %s:%d. "
                 "Move the barrier out of the condition", what, file, line, t.file, t.line);
        }
    }
    unsigned now = m.barriers & 1;
    m.vote_sum[now] += value;
    if (++m.waiting == m.thread_count) release_barrier();
    else wait_for(AT_BARRIER, what, 0, file, line);
    return m.vote_sum[now];
}

// All lanes named in the mask meet here. The last one to come calls finish(slots); then everybody may read the slots.
typedef unsigned char Slots[WARP][32];
template <class Finish>
CUDA_ON_CPU_RAW inline Slots &warp_meet(unsigned mask, const void *value, size_t bytes, const char *what,
                                        const char *file, int line, Finish finish) {
    Inside guard;
    Machine &m = machine;
    if (!m.current) fail("%s at %s:%d is called by the host", what, file, line);
    int thread = m.current->thread, lane = thread % WARP, warp = thread / WARP, lanes = m.thread_count - warp * WARP;
    unsigned exist = lanes >= WARP ? ~0u : (1u << lanes) - 1;
    if (!(mask >> lane & 1))
        fail("%s at %s:%d: lane %d calls it, but its mask %08x does not name it", what, file, line, lane, mask);
    if (mask & ~exist)
        fail("%s at %s:%d: mask %08x names lanes that the block does not have; this warp has %d lanes", what, file,
             line, mask, lanes);
    Meeting *meeting = nullptr;
    for (auto &one : m.meetings[warp])
        if (one->mask == mask) meeting = one.get();
    if (!meeting) {
        m.meetings[warp].emplace_back(new Meeting);
        meeting = m.meetings[warp].back().get();
        meeting->mask = mask;
    }
    if (meeting->arrived && (strcmp(meeting->operation, what) || meeting->line != line))
        fail("warp divergence: lane %d reached %s at %s:%d while others of mask %08x wait in %s at %s:%d", lane, what,
             file, line, mask, meeting->operation, meeting->file, meeting->line);
    meeting->operation = what, meeting->file = file, meeting->line = line;
    Slots &slots = meeting->slot[meeting->count & 1];
    memcpy(slots[lane], value, bytes);
    meeting->arrived |= 1u << lane;
    if (meeting->arrived == mask) {
        finish(slots);
        meeting->arrived = 0;
        meeting->count++;
        for (int l = 0; l < WARP; l++)
            if (mask >> l & 1 && l != lane) wake(warp * WARP + l);
    } else wait_for(AT_MEETING, what, mask, file, line);
    return slots;
}
inline void nothing(Slots &) {}

CUDA_ON_CPU_RAW inline int lane() { return machine.current ? machine.current->thread % WARP : 0; }

// source < 0: the lane keeps its own value, but has to come all the same.
template <class T>
CUDA_ON_CPU_RAW T exchange(unsigned mask, T value, int source, const char *what, const char *file, int line) {
    static_assert(sizeof(T) <= 32, "a shuffle moves at most 32 bytes here");
    Inside guard;
    Slots &slots = warp_meet(mask, &value, sizeof value, what, file, line, nothing);
    if (source < 0) return value;
    if (!(mask >> source & 1))
        fail("%s at %s:%d: lane %d reads lane %d, which is not in mask %08x", what, file, line, lane(), source, mask);
    T result;
    memcpy(&result, slots[source], sizeof result);
    return result;
}

// Fills with NaN. AddressSanitizer watches memset, and red zones lie between the arrays, so there it is a loop.
CUDA_ON_CPU_RAW inline void poison(void *start, size_t bytes) {
#ifdef CUDA_ON_CPU_ASAN
    for (volatile char *p = (char *)start, *end = p + bytes; p < end; p++) *p = (char)0xff;
#else
    memset(start, 0xff, bytes);
#endif
}

CUDA_ON_CPU_RAW inline void begin_block() {
    Machine &m = machine;
    int n = m.thread_count, warps = (n + WARP - 1) / WARP;
    m.started = 0, m.returned = m.waiting = 0, m.barriers = 0, m.ready_ranks = 0;
    m.going.clear();
    m.gone = 0;
    m.vote_sum[0] = m.vote_sum[1] = 0;
    m.start_order.clear();
    std::vector<int> order;
    for (int w = 0; w < warps; w++) order.push_back(w), m.ready[w].clear();
    shuffle(order, 0);
    for (int r = 0; r < warps; r++) {
        size_t first = m.start_order.size();
        m.rank[order[r]] = r;
        for (int i = order[r] * WARP; i < n && i < (order[r] + 1) * WARP; i++) m.start_order.push_back(i);
        shuffle(m.start_order, first);              // the lanes of this warp
    }
    m.threads.assign((size_t)n, Thread());
    for (int i = 0; i < n; i++) {
        unsigned u = (unsigned)i, x = m.block_size.x, y = m.block_size.y;
        m.threads[i].index = {u % x, u / x % y, u / (x * y)};
    }
#ifdef CUDA_ON_CPU_ASAN
    __asan_unpoison_memory_region(dynamic_shared, sizeof dynamic_shared);
    __asan_poison_memory_region(dynamic_shared + m.dynamic_bytes, sizeof dynamic_shared - m.dynamic_bytes);
#endif
    poison(dynamic_shared, m.dynamic_bytes);
    for (const Region &r : m.kernel->shared) poison(r.start, r.bytes);
    if (m.block_hooks[0]) m.block_hooks[0]();
#ifdef CUDA_ON_CPU_CHECK
    check_block_begin();
#endif
}

CUDA_ON_CPU_RAW inline void run_block() {
    Machine &m = machine;
    begin_block();
    while (m.returned < m.thread_count) {
        Fiber *next = choose();
        if (next != &m.host) {
            int inside = m.inside;
            m.current = next;
            switch_fiber(&m.host, next);            // comes back when no fiber can go on
            m.inside = inside;
        } else if (m.exited_ok && m.waiting && m.waiting + m.returned == m.thread_count) release_barrier();
        else stuck();
    }
    if (m.block_hooks[1]) m.block_hooks[1]();
}

CUDA_ON_CPU_RAW inline void run_grid() {
    Machine &m = machine;
    size_t blocks = (size_t)m.grid_size.x * m.grid_size.y * m.grid_size.z;
    std::vector<int> order(blocks);
    for (size_t i = 0; i < blocks; i++) order[i] = (int)i;
    shuffle(order, 0);
    for (int b : order) {
        unsigned u = (unsigned)b, x = m.grid_size.x, y = m.grid_size.y;
        m.block_index = {u % x, u / x % y, u / x / y};
        run_block();
    }
}

// ---- 5 streams ------------------------------------------------------------------------------------------------------

CUDA_ON_CPU_RAW inline bool is_ready(const Operation &o) {
    for (const OperationRef &before : o.after)
        if (!before->done) return false;
    return true;
}
CUDA_ON_CPU_RAW inline void run_front(Stream *s) {
    OperationRef o = s->queue.front();
    if (machine.running) fail("a function of the CUDA runtime is called from inside a stream, by cudaLaunchHostFunc");
    s->queue.pop_front();
    machine.running = true;
    machine.running_device = s->device;
    o->run();
    machine.running = false;
    o->done = true;
    o->run = nullptr;
    o->after.clear();
}
template <class Visit> CUDA_ON_CPU_RAW void each_stream(Visit visit) {
    for (int d = 0; d < machine.devices; d++) visit(&machine.null_stream[d]);
    for (Stream *s : machine.streams) visit(s);
}
// One operation that could run: any with a seed, without one the one that was issued first.
CUDA_ON_CPU_RAW inline bool run_one(int device) {
    std::vector<Stream *> can;
    Stream *first = nullptr;
    each_stream([&](Stream *s) {
        if ((device >= 0 && s->device != device) || s->queue.empty() || !is_ready(*s->queue.front())) return;
        can.push_back(s);
        if (!first || s->queue.front()->number < first->queue.front()->number) first = s;
    });
    if (!first) return false;
    run_front(machine.random_state ? can[random_number() % can.size()] : first);
    return true;
}
// Runs what this operation needs, and with a seed now and then something else that might have run by now as well.
// What nobody waits for stays undone for as long as possible: in that order a missing wait shows.
CUDA_ON_CPU_RAW inline void finish(OperationRef o) {
    Inside guard;
    while (o && !o->done) {
        Stream *s = o->stream;
        OperationRef front = s->queue.front();
        std::vector<OperationRef> before = front->after;
        for (OperationRef &b : before) finish(b);
        while (machine.random_state && random_number() % 4 == 0 && run_one(-1)) {}
        if (!front->done) run_front(s);
    }
}
CUDA_ON_CPU_RAW inline void finish_device(int device) {     // -1: all of them
    Inside guard;
    std::vector<OperationRef> last;
    each_stream([&](Stream *s) {
        if (s->capture) fail("the device is synchronised while a stream is being captured: end the capture first");
        if (device < 0 || s->device == device) last.push_back(s->last);
    });
    bool random = machine.random_state != 0;
    while (run_one(random ? -1 : device)) {}
    for (OperationRef &o : last) finish(o);         // those that wait for another device
}
CUDA_ON_CPU_RAW inline Stream *stream_of(Stream *s, const char *what) {
    if (!s) return &machine.null_stream[machine.device];
    for (Stream *known : machine.streams)
        if (known == s) {
            if (s->device != machine.device)
                fail("%s: the stream belongs to device %d, the current device is %d. Call cudaSetDevice(%d) before",
                     what, s->device, machine.device, s->device);
            return s;
        }
    fail("%s: no such stream; was it destroyed, or never created?", what);
}
CUDA_ON_CPU_RAW inline OperationRef issue(Stream *s, std::function<void()> run, OperationRef after = nullptr) {
    Machine &m = machine;
    Inside guard;
    if (m.current) fail("a kernel calls a function of the host's runtime");
    if (s->capture) {
        s->capture->steps.push_back(std::move(run));
        return nullptr;
    }
    OperationRef o = std::make_shared<Operation>();
    o->stream = s;
    o->number = ++m.issued;
    o->run = std::move(run);
    if (after) o->after.push_back(after);
    Stream *null = &m.null_stream[s->device];
    if (s == null) {
        for (Stream *other : m.streams)
            if (other->blocking && other->device == s->device && other->last && !other->last->done)
                o->after.push_back(other->last);
    } else if (s->blocking && null->last && !null->last->done) o->after.push_back(null->last);
    s->queue.push_back(o);
    s->last = o;
    if (m.blocking) finish(o);
    return o;
}

// ---- 6 memory -------------------------------------------------------------------------------------------------------

typedef std::map<uintptr_t, Allocation> AllocationMap;
// The allocation that p lies in, or that it ends; end() if none.
CUDA_ON_CPU_RAW inline AllocationMap::iterator find_in(AllocationMap &map, const void *p, size_t bytes) {
    uintptr_t address = (uintptr_t)p;
    auto it = map.upper_bound(address);
    if (it == map.begin()) return map.end();
    --it;
    size_t offset = address - it->first, has = it->second.bytes;
    return offset <= has && bytes <= has - offset ? it : map.end();
}
CUDA_ON_CPU_RAW inline int device_of(const void *p, size_t bytes) {    // HOST also for what nobody knows
    auto it = find_in(machine.memory, p, bytes);
    return it == machine.memory.end() ? HOST : it->second.device;
}
CUDA_ON_CPU_RAW inline bool is_pinned(const void *p) {
    auto it = find_in(machine.memory, p, 0);
    return it != machine.memory.end() && it->second.device == HOST;
}

CUDA_ON_CPU_RAW inline void *allocate(size_t bytes, int device, const char *file, int line) {
    Inside guard;
    void *p = nullptr;
#ifdef CUDA_ON_CPU_CHECK
    p = check_allocate(bytes, device);
#else
    if (posix_memalign(&p, 256, bytes ? bytes : 1)) return nullptr;
    memset(p, 0xff, bytes);
#endif
    uintptr_t address = (uintptr_t)p;
    auto old = machine.freed.lower_bound(address);
    if (old != machine.freed.begin() && std::prev(old)->first + std::prev(old)->second.bytes > address) --old;
    while (old != machine.freed.end() && old->first < address + bytes) old = machine.freed.erase(old);
    machine.memory[address] = {bytes, device, file, line};
    return p;
}
CUDA_ON_CPU_RAW inline void release(void *p, bool pinned, const char *what, const char *file, int line) {
    Inside guard;
    if (!p) return;
    finish_device(-1);                              // cudaFree waits for the device
    auto it = machine.memory.find((uintptr_t)p);
    if (it == machine.memory.end()) {
        auto gone = machine.freed.find((uintptr_t)p);
        if (gone != machine.freed.end())
            fail("%s(%p) at %s:%d: it was freed before, at %s:%d", what, p, file, line, gone->second.file,
                 gone->second.line);
        fail("%s(%p) at %s:%d: this is not the start of an allocation", what, p, file, line);
    }
    Allocation a = it->second;
    if (pinned != (a.device == HOST))
        fail("%s(%p) at %s:%d: it came from %s, at %s:%d", what, p, file, line,
             pinned ? "cudaMalloc, so call cudaFree" : "cudaMallocHost, so call cudaFreeHost", a.file, a.line);
    machine.memory.erase(it);
    machine.freed[(uintptr_t)p] = {a.bytes, a.device, file, line};
#ifdef CUDA_ON_CPU_CHECK
    check_release(p, a.bytes);
#else
    free(p);
#endif
}

CUDA_ON_CPU_RAW inline void check_side(const void *p, size_t bytes, bool want_device, const char *side,
                                       const char *kind, const char *file, int line) {
    auto it = find_in(machine.memory, p, 0);
    if (it != machine.memory.end() && find_in(machine.memory, p, bytes) == machine.memory.end())
        fail("copy of %zu bytes at %s:%d leaves its %s: that has %zu bytes, the copy begins at byte %zu "
             "(allocated at %s:%d)", bytes, file, line, side, it->second.bytes, (size_t)((uintptr_t)p - it->first),
             it->second.file, it->second.line);
    bool on_device = it != machine.memory.end() && it->second.device != HOST;
    if (on_device == want_device) return;
    auto gone = find_in(machine.freed, p, 1);
    if (want_device && gone != machine.freed.end())
        fail("copy of %zu bytes at %s:%d: its %s was freed at %s:%d", bytes, file, line, side, gone->second.file,
             gone->second.line);
    fail("copy of %zu bytes at %s:%d: kind is %s, but its %s is %s memory", bytes, file, line, kind, side,
         on_device ? "device" : "host");
}

// As the CUDA runtime documents it ("API synchronization behavior"): what comes from ordinary host memory is taken at
// once, what goes there has arrived when the call returns. Only memory from cudaMallocHost is copied behind one's back.
CUDA_ON_CPU_RAW inline cudaError_t copy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, Stream *stream,
                                        bool wait, const char *file, int line) {
    Inside guard;
    if (!bytes) return cudaSuccess;
    static const char *names[] = {"cudaMemcpyHostToHost", "cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost",
                                  "cudaMemcpyDeviceToDevice", "cudaMemcpyDefault"};
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind == cudaMemcpyDefault) to_device = device_of(to, 0) != HOST, from_device = device_of(from, 0) != HOST;
    check_side(to, bytes, to_device, "destination", names[kind], file, line);
    check_side(from, bytes, from_device, "source", names[kind], file, line);
    stream = stream_of(stream, "cudaMemcpyAsync");
    std::shared_ptr<std::vector<char>> staged;
    if (!from_device && !is_pinned(from) && !stream->capture)
        staged = std::make_shared<std::vector<char>>((const char *)from, (const char *)from + bytes);
    OperationRef o = issue(stream, [=] {
        memcpy(to, staged ? staged->data() : from, bytes);
#ifdef CUDA_ON_CPU_CHECK
        check_written(to, bytes);
#endif
    });
    bool both_on_device = to_device && from_device;
    if ((wait && !both_on_device) || (!to_device && !is_pinned(to))) finish(o);
    return cudaSuccess;
}
CUDA_ON_CPU_RAW inline cudaError_t fill(void *to, int value, size_t bytes, Stream *stream, const char *file, int line) {
    Inside guard;
    if (!bytes) return cudaSuccess;
    check_side(to, bytes, true, "destination", "cudaMemset", file, line);
    issue(stream_of(stream, "cudaMemsetAsync"), [=] {
        memset(to, value, bytes);
#ifdef CUDA_ON_CPU_CHECK
        check_written(to, bytes);
#endif
    });
    return cudaSuccess;
}

// A stack that grew into its guard page, or an address that nothing lies at.
CUDA_ON_CPU_RAW inline void on_fault(int number, siginfo_t *info, void *) {
    char *address = (char *)info->si_addr;
    for (Fiber *f : machine.fibers)
        if (address < f->stack && address >= f->stack - GUARD_BYTES)
            fail("the stack of a thread is full, %zu bytes. Large local arrays? CUDA_ON_CPU_STACK=%zu doubles it",
                 f->stack_bytes, 2 * f->stack_bytes);
    if (machine.current) fail("ILLEGAL ADDRESS %p", (void *)address);
    signal(number, SIG_DFL);                        // the host's own fault: again, without us
}

inline Machine::Machine() {
    const char *seed = getenv("CUDA_ON_CPU_SEED"), *count = getenv("CUDA_ON_CPU_DEVICES");
    const char *stack = getenv("CUDA_ON_CPU_STACK");
#ifdef CUDA_ON_CPU_ASAN
    stack_bytes = 4 * stack_bytes;
#else
    static char signal_stack[1 << 16];              // the handler cannot run on a stack that is full
    stack_t place = {};
    place.ss_sp = signal_stack, place.ss_size = sizeof signal_stack;
    sigaltstack(&place, nullptr);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
#endif
    if (seed) random_state = 0x9E3779B97F4A7C15u * strtoull(seed, nullptr, 10);
    if (count && atoi(count) > 0 && atoi(count) <= MAX_DEVICES) devices = atoi(count);
    if (stack && atoi(stack) >= 16384) stack_bytes = (size_t)atoi(stack);
    exited_ok = is_on("CUDA_ON_CPU_EXITED_OK"), blocking = is_on("CUDA_ON_CPU_BLOCKING");
    for (int d = 0; d < MAX_DEVICES; d++) null_stream[d].device = d;
}
// At the end of the program: what was issued and never waited for runs now, so that its errors show; then the leaks.
inline Machine::~Machine() {
    const char *leaks = getenv("CUDA_ON_CPU_LEAKS");
    int status = 0;
    inside = 1;
    for (Stream *s : streams) s->capture = nullptr;
    while (run_one(-1)) {}
    std::map<std::tuple<std::string, int, bool>, std::pair<size_t, int>> lost;  // bytes and number by line and kind
    for (const auto &m : memory) {
        auto &l = lost[std::make_tuple(m.second.file, m.second.line, m.second.device == HOST)];
        l.first += m.second.bytes;
        l.second++;
    }
    if (leaks && !atoi(leaks)) lost.clear();
    if (!lost.empty()) fflush(stdout), status = EXIT_LEAK;
    for (const auto &l : lost)
        fprintf(stderr, "cuda_on_cpu: LEAK: %zu bytes of %s memory in %d allocation%s at %s:%d were never freed\n",
                l.second.first, std::get<2>(l.first) ? "pinned host" : "device", l.second.second,
                l.second.second == 1 ? "" : "s", std::get<0>(l.first).c_str(), std::get<1>(l.first));
#ifdef CUDA_ON_CPU_CHECK
    if (check_finish()) status = EXIT_CHECK;
#endif
    if (status) stop(status);
    for (Stream *s : streams) delete s;
    for (Fiber *f : fibers) {
        munmap(f->stack - GUARD_BYTES, f->stack_bytes + GUARD_BYTES);
        delete f;
    }
}

// ---- 7 launch -------------------------------------------------------------------------------------------------------

CUDA_ON_CPU_RAW inline const Symbols &symbols() {
    if (!machine.symbols) machine.symbols.reset(new Symbols);
    return *machine.symbols;
}
CUDA_ON_CPU_RAW inline std::string demangled(const std::string &name) {
#if defined(__linux__)
    int status;
    char *text = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
    if (!text) return name;
    std::string result = text;
    free(text);
    if (!result.compare(0, 5, "void ")) result.erase(0, 5);
    return result;
#else
    return name;
#endif
}
// The name of a kernel and its shared arrays. The section attribute makes one list; g++ before 14 ignores it in
// templates, so variables whose mangled name says that they are local to this kernel are taken as well.
CUDA_ON_CPU_RAW inline Kernel &kernel_of(const void *function) {
    auto known = machine.kernels.find(function);
    if (known != machine.kernels.end()) return known->second;
    Kernel k;
    std::string mangled;
    for (const Symbol &s : symbols().all)
        if (s.function && s.address == (uintptr_t)function && s.name.compare(0, 2, "_Z") == 0) mangled = s.name;
    k.shared = symbols().shared;
    if (mangled.empty()) k.name = "?";
    else {
        std::string local = "_ZZ" + mangled.substr(2) + "E";
        k.name = demangled(mangled);
        k.name = k.name.substr(0, k.name.find('('));
        for (const Symbol &s : symbols().all)
            if (!s.function && s.bytes && !s.name.compare(0, local.size(), local))
                k.shared.push_back({(char *)s.address, s.bytes});
    }
    return machine.kernels[function] = k;
}

// A pointer among a kernel's arguments has to be null or lie in memory that the device can reach.
CUDA_ON_CPU_RAW inline void check_argument(const Kernel &k, int number, const void *p, const char *file, int line) {
    if (!p) return;
    auto it = find_in(machine.memory, p, 0);
    if (it == machine.memory.end()) {
        auto gone = find_in(machine.freed, p, 0);
        if (gone != machine.freed.end())
            fail("launch of %s at %s:%d: argument %d points to memory that was freed at %s:%d", k.name.c_str(), file,
                 line, number, gone->second.file, gone->second.line);
        fail("launch of %s at %s:%d: argument %d is %p, a host pointer. Copy the data to memory from cudaMalloc",
             k.name.c_str(), file, line, number, p);
    }
    int owner = it->second.device, here = machine.device;
    if (owner != HOST && owner != here && !machine.peer[here][owner])
        fail("launch of %s at %s:%d: argument %d is memory of device %d (allocated at %s:%d), the kernel runs on "
             "device %d. Copy it, or call cudaDeviceEnablePeerAccess", k.name.c_str(), file, line, number, owner,
             it->second.file, it->second.line, here);
}
template <class T> void check_value(const Kernel &k, int number, const T &value, const char *file, int line) {
    if constexpr (std::is_pointer<T>::value) check_argument(k, number, (const void *)value, file, line);
    else (void)k, (void)number, (void)value, (void)file, (void)line;
}

CUDA_ON_CPU_RAW inline void check_limits(const Kernel &k, dim3 grid, dim3 block, size_t shared_bytes, const char *file,
                                         int line) {
    size_t threads = (size_t)block.x * block.y * block.z;
    if (!threads || threads > MAX_THREADS || block.z > 64)
        fail("launch of %s at %s:%d: block (%u,%u,%u) has %zu threads; between 1 and %d are possible, and z up to 64",
             k.name.c_str(), file, line, block.x, block.y, block.z, threads, MAX_THREADS);
    if (!grid.x || !grid.y || !grid.z || grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535)
        fail("launch of %s at %s:%d: grid (%u,%u,%u); each has to be at least 1, y and z at most 65535",
             k.name.c_str(), file, line, grid.x, grid.y, grid.z);
    if (shared_bytes > k.shared_limit)
        fail("launch of %s at %s:%d asks for %zu bytes of dynamic shared memory, the limit is %zu. "
             "cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) raises it, up to %d",
             k.name.c_str(), file, line, shared_bytes, k.shared_limit, SHARED_MAX);
}

// What launch() takes as its grid: a dim3 or a number, and with it the caller's file and line.
struct Grid {
    const char *file;
    int line;
    dim3 size;
    Grid(dim3 grid, const char *f = __builtin_FILE(), int l = __builtin_LINE()) : file(f), line(l), size(grid) {}
    template <class T, class = typename std::enable_if<std::is_integral<T>::value>::type>
    Grid(T x, const char *f = __builtin_FILE(), int l = __builtin_LINE()) : file(f), line(l), size((unsigned)x) {}
};

template <class Pack> void enter(void *pack) { std::apply(((Pack *)pack)->first, ((Pack *)pack)->second); }

} // namespace cuda_on_cpu
typedef cuda_on_cpu::Grid LaunchGrid;               // for who passes it on

template <class... Parameters, class... Arguments>
static inline void launch(void (*kernel)(Parameters...), cuda_on_cpu::Grid grid, dim3 block, size_t shared_bytes,
                          cuda_on_cpu::Stream *stream, Arguments... arguments) {
    using namespace cuda_on_cpu;
    static_assert(sizeof...(Parameters) == sizeof...(Arguments), "the kernel takes another number of arguments");
    typedef std::pair<void (*)(Parameters...), std::tuple<Parameters...>> Pack;
    Pack pack(kernel, std::tuple<Parameters...>(static_cast<Parameters>(arguments)...));
    Inside guard;
    Kernel *k = &kernel_of((const void *)kernel);
    check_limits(*k, grid.size, block, shared_bytes, grid.file, grid.line);
    stream = stream_of(stream, "launch");
    int number = 0;
    (void)number;
    std::apply([&](const Parameters &...each) {
        (check_value(*k, ++number, each, grid.file, grid.line), ...);
    }, pack.second);
    issue(stream, [=]() mutable {
        Machine &m = machine;
        m.kernel = k;
        m.launch_file = grid.file, m.launch_line = grid.line;
        m.grid_size = grid.size, m.block_size = block;
        m.thread_count = (int)(block.x * block.y * block.z);
        m.dynamic_bytes = shared_bytes;
        m.entry = enter<Pack>;
        m.arguments = &pack;
        m.argument_bytes = sizeof pack;
        Inside working;
#ifdef CUDA_ON_CPU_CHECK
        check_launch();
#endif
        run_grid();
#ifdef CUDA_ON_CPU_CHECK
        check_launch_end();
#endif
    });
}

// ---- 8 device functions ---------------------------------------------------------------------------------------------

static const uint3 &threadIdx = cuda_on_cpu::machine.thread_index, &blockIdx = cuda_on_cpu::machine.block_index;
static const dim3 &blockDim = cuda_on_cpu::machine.block_size, &gridDim = cuda_on_cpu::machine.grid_size;
constexpr int warpSize = 32;

CUDA_ON_CPU_RAW inline void __syncthreads(CUDA_ON_CPU_SITE) {
    cuda_on_cpu::block_barrier(0, "__syncthreads", file, line);
}
CUDA_ON_CPU_RAW inline int __syncthreads_count(int predicate, CUDA_ON_CPU_SITE) {
    return cuda_on_cpu::block_barrier(predicate != 0, "__syncthreads_count", file, line);
}
CUDA_ON_CPU_RAW inline int __syncthreads_or(int predicate, CUDA_ON_CPU_SITE) {
    return cuda_on_cpu::block_barrier(predicate != 0, "__syncthreads_or", file, line) != 0;
}
CUDA_ON_CPU_RAW inline int __syncthreads_and(int predicate, CUDA_ON_CPU_SITE) {
    return cuda_on_cpu::block_barrier(predicate == 0, "__syncthreads_and", file, line) == 0;
}
// Of all warp operations only this one orders memory: CUDA C++ Programming Guide, "Warp Shuffle Functions".
CUDA_ON_CPU_RAW inline void __syncwarp(unsigned mask = ~0u, CUDA_ON_CPU_SITE) {
    using namespace cuda_on_cpu;
    Inside guard;
    unsigned syncs = machine.current ? machine.current->warp_syncs : 0;
    Slots &slots = warp_meet(mask, &syncs, sizeof syncs, "__syncwarp", file, line, nothing);
    // One more than any of those who met: two lanes with equal numbers have not met since.
    for (int l = 0; l < WARP; l++) {
        unsigned theirs;
        memcpy(&theirs, slots[l], sizeof theirs);
        if (mask >> l & 1 && theirs > syncs) syncs = theirs;
    }
    machine.current->warp_syncs = syncs + 1;
}

// width splits the warp into segments, each a power of two; a lane that would read past its segment keeps its value.
template <class T> inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDA_ON_CPU_SITE) {
    int from = (cuda_on_cpu::lane() & ~(width - 1)) | (source & (width - 1));
    return cuda_on_cpu::exchange(mask, value, from, "__shfl_sync", file, line);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_SITE) {
    int lane = cuda_on_cpu::lane(), source = (unsigned)(lane & (width - 1)) >= delta ? lane - (int)delta : -1;
    return cuda_on_cpu::exchange(mask, value, source, "__shfl_up_sync", file, line);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_SITE) {
    int lane = cuda_on_cpu::lane(), source = (lane & (width - 1)) + delta < (unsigned)width ? lane + (int)delta : -1;
    return cuda_on_cpu::exchange(mask, value, source, "__shfl_down_sync", file, line);
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, CUDA_ON_CPU_SITE) {
    int lane = cuda_on_cpu::lane(), source = lane ^ bits;
    return cuda_on_cpu::exchange(mask, value, source / width > lane / width || source > 31 ? -1 : source,
                                 "__shfl_xor_sync", file, line);
}
namespace cuda_on_cpu {
CUDA_ON_CPU_RAW inline unsigned vote(unsigned mask, int predicate, const char *what, const char *file, int line) {
    Inside guard;
    Slots &slots = warp_meet(mask, &predicate, sizeof predicate, what, file, line, nothing);
    unsigned result = 0;
    for (int l = 0; l < WARP; l++) {
        int one;
        memcpy(&one, slots[l], sizeof one);
        if (mask >> l & 1 && one) result |= 1u << l;
    }
    return result;
}
} // namespace cuda_on_cpu
inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_ON_CPU_SITE) {
    return cuda_on_cpu::vote(mask, predicate, "__ballot_sync", file, line);
}
inline int __any_sync(unsigned mask, int predicate, CUDA_ON_CPU_SITE) {
    return cuda_on_cpu::vote(mask, predicate, "__any_sync", file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, CUDA_ON_CPU_SITE) {
    return cuda_on_cpu::vote(mask, predicate, "__all_sync", file, line) == mask;
}

// One thread runs at a time and is never interrupted, so plain code is atomic. The checker has to know all the same.
#ifdef CUDA_ON_CPU_CHECK
#define CUDA_ON_CPU_ATOMIC(p) cuda_on_cpu::check_access(p, sizeof *(p), true, __builtin_return_address(0), true)
#else
#define CUDA_ON_CPU_ATOMIC(p) (void)0
#endif
#define CUDA_ON_CPU_ATOMIC_OPERATION(name, result) \
    template <class T, class U> CUDA_ON_CPU_RAW T name(T *p, U operand) { \
        CUDA_ON_CPU_ATOMIC(p); \
        T old = *p, value = (T)operand; \
        *p = (result); \
        return old; \
    }
CUDA_ON_CPU_ATOMIC_OPERATION(atomicAdd, old + value)
CUDA_ON_CPU_ATOMIC_OPERATION(atomicSub, old - value)
CUDA_ON_CPU_ATOMIC_OPERATION(atomicMin, value < old ? value : old)
CUDA_ON_CPU_ATOMIC_OPERATION(atomicMax, old < value ? value : old)
CUDA_ON_CPU_ATOMIC_OPERATION(atomicExch, value)
CUDA_ON_CPU_ATOMIC_OPERATION(atomicAnd, old & value)
CUDA_ON_CPU_ATOMIC_OPERATION(atomicOr, old | value)
CUDA_ON_CPU_ATOMIC_OPERATION(atomicXor, old ^ value)
CUDA_ON_CPU_ATOMIC_OPERATION(atomicInc, old >= value ? T(0) : T(old + 1))
#undef CUDA_ON_CPU_ATOMIC_OPERATION
template <class T, class U, class V> CUDA_ON_CPU_RAW T atomicCAS(T *p, U compare, V value) {
    CUDA_ON_CPU_ATOMIC(p);
    T old = *p;
    if (old == (T)compare) *p = (T)value;
    return old;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
[[noreturn]] CUDA_ON_CPU_RAW inline void __trap() { cuda_on_cpu::fail("__trap()"); }
static inline long long clock64() { return (long long)clock(); }

template <class T> __forceinline__ T __ldg(const T *p) { return *p; }
template <class T> __forceinline__ T __ldcs(const T *p) { return *p; }
template <class T> __forceinline__ T __ldcg(const T *p) { return *p; }
template <class T> __forceinline__ void __stcs(T *p, T value) { *p = value; }
template <class T> __forceinline__ void __stcg(T *p, T value) { *p = value; }

// glibc declares functions of these names itself, so they are macros. The host's arithmetic, not the GPU's fast one.
#define __expf expf
#define __exp2f exp2f
#define __logf logf
#define __log2f log2f
#define __sinf sinf
#define __cosf cosf
#define __powf powf
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline void sincospif(float x, float *sine, float *cosine) {     // of pi * x
    *sine = (float)sin(3.14159265358979323846 * (double)x), *cosine = (float)cos(3.14159265358979323846 * (double)x);
}
static inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
template <class To, class From> static inline To cuda_on_cpu_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float f) { return cuda_on_cpu_bits<unsigned>(f); }
static inline int __float_as_int(float f) { return cuda_on_cpu_bits<int>(f); }
static inline float __uint_as_float(unsigned u) { return cuda_on_cpu_bits<float>(u); }
static inline float __int_as_float(int i) { return cuda_on_cpu_bits<float>(i); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
template <class T> static inline T min(T a, T b) { return b < a ? b : a; }
template <class T> static inline T max(T a, T b) { return a < b ? b : a; }

static inline float __bfloat162float(__nv_bfloat16 h) { return (float)h; }
static inline __nv_bfloat16 __float2bfloat16(float f) {         // to nearest, ties to even
    uint32_t u = __float_as_uint(f);
    if ((u & 0x7fffffff) > 0x7f800000) return {0x7fff};         // NaN
    return {(uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
static inline __nv_bfloat16 __float2bfloat16_rn(float f) { return __float2bfloat16(f); }
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
    return {__float2bfloat16(x), __float2bfloat16(y)};
}
static inline float2 __bfloat1622float2(__nv_bfloat162 h) { return {(float)h.x, (float)h.y}; }

// ---- 9 the host's functions -----------------------------------------------------------------------------------------

typedef cuda_on_cpu::Stream *cudaStream_t;
typedef cuda_on_cpu::Event *cudaEvent_t;
typedef cuda_on_cpu::Graph *cudaGraph_t;
typedef cuda_on_cpu::Graph *cudaGraphExec_t;

static inline const char *cudaGetErrorString(cudaError_t e) {
    switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorPeerAccessAlreadyEnabled: return "peer access is already enabled";
    case cudaErrorNotReady: return "device not ready";
    }
    return "unrecognized error code";
}
// Errors of launches and kernels end the program where they happen, so there is never one left to ask for.
static inline cudaError_t cudaGetLastError() { return cudaSuccess; }
static inline cudaError_t cudaPeekAtLastError() { return cudaSuccess; }

static inline cudaError_t cudaGetDeviceCount(int *count) {
    return *count = cuda_on_cpu::machine.devices, cudaSuccess;
}
static inline cudaError_t cudaGetDevice(int *device) { return *device = cuda_on_cpu::machine.device, cudaSuccess; }
static inline cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= cuda_on_cpu::machine.devices) return cudaErrorInvalidDevice;
    cuda_on_cpu::machine.device = device;
    return cudaSuccess;
}
static inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int) {
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "CPU (cuda_on_cpu.h)");
    p->totalGlobalMem = (size_t)1 << 30;
    p->sharedMemPerBlock = cuda_on_cpu::SHARED_DEFAULT, p->sharedMemPerBlockOptin = cuda_on_cpu::SHARED_MAX;
    p->warpSize = 32, p->maxThreadsPerBlock = cuda_on_cpu::MAX_THREADS, p->multiProcessorCount = 4;
    p->major = 9, p->minor = 0;
    return cudaSuccess;
}
static inline cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    return *can = device != peer, cudaSuccess;
}
static inline cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned) {
    if (peer < 0 || peer >= cuda_on_cpu::machine.devices) return cudaErrorInvalidDevice;
    bool &on = cuda_on_cpu::machine.peer[cuda_on_cpu::machine.device][peer];
    if (on) return cudaErrorPeerAccessAlreadyEnabled;
    on = true;
    return cudaSuccess;
}
static inline cudaError_t cudaDeviceSynchronize() {
    cuda_on_cpu::finish_device(cuda_on_cpu::machine.device);
    return cudaSuccess;
}

template <class T> static inline cudaError_t cudaMalloc(T **p, size_t bytes, CUDA_ON_CPU_SITE) {
    *p = (T *)cuda_on_cpu::allocate(bytes, cuda_on_cpu::machine.device, file, line);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
template <class T> static inline cudaError_t cudaMallocHost(T **p, size_t bytes, CUDA_ON_CPU_SITE) {
    *p = (T *)cuda_on_cpu::allocate(bytes, cuda_on_cpu::HOST, file, line);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
template <class T> static inline cudaError_t cudaHostAlloc(T **p, size_t bytes, unsigned, CUDA_ON_CPU_SITE) {
    return cudaMallocHost(p, bytes, file, line);
}
static inline cudaError_t cudaFree(void *p, CUDA_ON_CPU_SITE) {
    cuda_on_cpu::release(p, false, "cudaFree", file, line);
    return cudaSuccess;
}
static inline cudaError_t cudaFreeHost(void *p, CUDA_ON_CPU_SITE) {
    cuda_on_cpu::release(p, true, "cudaFreeHost", file, line);
    return cudaSuccess;
}
static inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                                          cudaStream_t stream = nullptr, CUDA_ON_CPU_SITE) {
    return cuda_on_cpu::copy(to, from, bytes, kind, stream, false, file, line);
}
static inline cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, CUDA_ON_CPU_SITE) {
    return cuda_on_cpu::copy(to, from, bytes, kind, nullptr, true, file, line);
}
static inline cudaError_t cudaMemcpyPeer(void *to, int, const void *from, int, size_t bytes, CUDA_ON_CPU_SITE) {
    return cuda_on_cpu::copy(to, from, bytes, cudaMemcpyDeviceToDevice, nullptr, true, file, line);
}
static inline cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream = nullptr,
                                          CUDA_ON_CPU_SITE) {
    return cuda_on_cpu::fill(to, value, bytes, stream, file, line);
}
static inline cudaError_t cudaMemset(void *to, int value, size_t bytes, CUDA_ON_CPU_SITE) {
    return cuda_on_cpu::fill(to, value, bytes, nullptr, file, line);
}
// __constant__ and __device__ variables
template <class T>
static inline cudaError_t cudaMemcpyToSymbol(T &symbol, const void *from, size_t bytes, size_t offset = 0,
                                             cudaMemcpyKind = cudaMemcpyHostToDevice, CUDA_ON_CPU_SITE) {
    if (offset > sizeof(T) || bytes > sizeof(T) - offset)
        cuda_on_cpu::fail("cudaMemcpyToSymbol at %s:%d: bytes %zu to %zu of a variable of %zu bytes", file, line,
                          offset, offset + bytes, sizeof(T));
    char *to = (char *)&symbol + offset;
    std::vector<char> staged((const char *)from, (const char *)from + bytes);
    cuda_on_cpu::finish(cuda_on_cpu::issue(cuda_on_cpu::stream_of(nullptr, "cudaMemcpyToSymbol"),
                                           [=] { memcpy(to, staged.data(), staged.size()); }));
    return cudaSuccess;
}
template <class T>
static inline cudaError_t cudaMemcpyFromSymbol(void *to, const T &symbol, size_t bytes, size_t offset = 0,
                                               cudaMemcpyKind = cudaMemcpyDeviceToHost, CUDA_ON_CPU_SITE) {
    if (offset > sizeof(T) || bytes > sizeof(T) - offset)
        cuda_on_cpu::fail("cudaMemcpyFromSymbol at %s:%d: bytes %zu to %zu of a variable of %zu bytes", file, line,
                          offset, offset + bytes, sizeof(T));
    const char *from = (const char *)&symbol + offset;
    cuda_on_cpu::finish(cuda_on_cpu::issue(cuda_on_cpu::stream_of(nullptr, "cudaMemcpyFromSymbol"),
                                           [=] { memcpy(to, from, bytes); }));
    return cudaSuccess;
}
template <class Function>
static inline cudaError_t cudaFuncSetAttribute(Function *kernel, cudaFuncAttribute attribute, int value) {
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || value > cuda_on_cpu::SHARED_MAX) return cudaErrorInvalidValue;
    cuda_on_cpu::kernel_of((const void *)kernel).shared_limit = (size_t)value;
    return cudaSuccess;
}

static inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    *stream = new cuda_on_cpu::Stream;
    (*stream)->device = cuda_on_cpu::machine.device;
    (*stream)->blocking = !(flags & cudaStreamNonBlocking);
    cuda_on_cpu::machine.streams.push_back(*stream);
    return cudaSuccess;
}
static inline cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}
static inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    stream = stream ? stream : &cuda_on_cpu::machine.null_stream[cuda_on_cpu::machine.device];
    if (stream->capture) cuda_on_cpu::fail("cudaStreamSynchronize: the stream is being captured");
    cuda_on_cpu::finish(stream->last);
    return cudaSuccess;
}
// Asking makes time pass, so that a loop that polls comes to an end.
static inline cudaError_t cudaStreamQuery(cudaStream_t stream) {
    stream = stream ? stream : &cuda_on_cpu::machine.null_stream[cuda_on_cpu::machine.device];
    if (stream->queue.empty()) return cudaSuccess;
    cuda_on_cpu::Inside guard;
    cuda_on_cpu::run_one(-1);
    return cudaErrorNotReady;
}
static inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    cuda_on_cpu::stream_of(stream, "cudaStreamDestroy");
    cuda_on_cpu::finish(stream->last);
    std::vector<cudaStream_t> &all = cuda_on_cpu::machine.streams;
    for (size_t i = 0; i < all.size(); i++)
        if (all[i] == stream) all.erase(all.begin() + (long)i--);
    delete stream;
    return cudaSuccess;
}
static inline cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*function)(void *), void *data) {
    cuda_on_cpu::issue(cuda_on_cpu::stream_of(stream, "cudaLaunchHostFunc"), [=] { function(data); });
    return cudaSuccess;
}

static inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    *event = new cuda_on_cpu::Event;
    return cudaSuccess;
}
static inline cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }
static inline cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
static inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr) {
    std::shared_ptr<double> seconds = std::make_shared<double>(0.0);
    stream = cuda_on_cpu::stream_of(stream, "cudaEventRecord");
    event->capture = stream->capture;
    event->seconds = seconds;
    event->recorded = cuda_on_cpu::issue(stream, [=] {
        timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        *seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    });
    return cudaSuccess;
}
static inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    return cuda_on_cpu::finish(event->recorded), cudaSuccess;
}
static inline cudaError_t cudaEventQuery(cudaEvent_t event) {
    if (!event->recorded || event->recorded->done) return cudaSuccess;
    cuda_on_cpu::Inside guard;
    cuda_on_cpu::run_one(-1);
    return cudaErrorNotReady;
}
static inline cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
    if (!from->recorded || !to->recorded) return cudaErrorInvalidValue;
    if (!from->recorded->done || !to->recorded->done) return cudaErrorNotReady;
    *milliseconds = (float)(1e3 * (*to->seconds - *from->seconds));
    return cudaSuccess;
}
// While a stream is captured, a stream that waits for its event joins the capture. A graph keeps the order of issue.
static inline cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned = 0) {
    stream = stream ? stream : &cuda_on_cpu::machine.null_stream[cuda_on_cpu::machine.device];
    if (event->capture) stream->capture = event->capture;
    else if (event->recorded && !event->recorded->done) cuda_on_cpu::issue(stream, [] {}, event->recorded);
    return cudaSuccess;
}

static inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    if (!stream) cuda_on_cpu::fail("cudaStreamBeginCapture: the null stream cannot be captured");
    stream->capture = new cuda_on_cpu::Graph;
    return cudaSuccess;
}
static inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    *graph = stream->capture;
    cuda_on_cpu::each_stream([=](cudaStream_t s) { if (s->capture == *graph) s->capture = nullptr; });
    return cudaSuccess;
}
static inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *runnable, cudaGraph_t graph, unsigned long long = 0) {
    *runnable = new cuda_on_cpu::Graph(*graph);
    return cudaSuccess;
}
static inline cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    std::vector<std::function<void()>> steps = graph->steps;
    cuda_on_cpu::issue(cuda_on_cpu::stream_of(stream, "cudaGraphLaunch"), [=] { for (auto &step : steps) step(); });
    return cudaSuccess;
}
static inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
static inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return delete graph, cudaSuccess; }

#ifdef CUDA_ON_CPU_CHECK
#include "cuda_on_cpu_check.h"
#endif
#endif // not nvcc
#endif
