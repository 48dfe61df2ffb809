// Planted bugs. Each has to be reported by the builds that its row in the table names, with the words that stand there:
//     build/cuda/planted count                how many there are
//     build/cuda/planted show N               its name and, per build, the words; "-" where it cannot be seen
//     build/cuda/planted N                    runs it; ends with 0 if nobody noticed
// "WRONG" is this program's own word for a result that is not what it should be. tests/test_cuda.sh goes through all.
#include "tensor_core.h"
#include <vector>
enum { N = 64 };

// ---- kernels: the right one first -----------------------------------------------------------------------------------
__global__ void reverse(float *x) {
    __shared__ float s[N];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = s[N - 1 - threadIdx.x];
}
__global__ void no_barrier(float *x) {
    __shared__ float s[N];
    s[threadIdx.x] = x[threadIdx.x];
    x[threadIdx.x] = s[N - 1 - threadIdx.x];
}
// Sums of rows in four rounds: the next round overwrites s before a slow warp has read it.
__global__ void no_second_barrier(float *y, const float *x) {
    __shared__ float s[N];
    float sum = 0;
    for (int round = 0; round < 4; round++) {
        s[threadIdx.x] = x[round * N + threadIdx.x];
        __syncthreads();
        for (int i = 0; i < N; i++) sum += s[i];
    }
    y[threadIdx.x] = sum;
}
__global__ void no_syncwarp(float *y, const float *x) {             // what a warp writes, all its lanes read
    __shared__ float s[N];
    int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 32;
    s[threadIdx.x] = x[threadIdx.x];
    float v = __shfl_xor_sync(0xffffffffu, s[threadIdx.x], 1);      // makes lanes wait, but orders no memory
    y[threadIdx.x] = v + s[first + (lane + 1) % 32];
}
__global__ void warp_synchronous(float *x) {                        // how it was written before sm_70
    __shared__ float s[N];
    int t = threadIdx.x;
    s[t] = x[t];
    for (int o = 16; o; o >>= 1) s[t] += s[t ^ o];
    x[t] = s[t];
}
__global__ void no_atomic(float *gradient, const int *token, const float *d) {  // two blocks have the same token
    gradient[token[blockIdx.x] * 16 + threadIdx.x] += d[threadIdx.x];
}
__global__ void block_race(float *x) {
    if (threadIdx.x == 0) x[0] += (float)blockIdx.x;
}
__global__ void mixed_atomic(float *x) {                            // an atomic protects only against other atomics
    if (threadIdx.x == 0) x[0] = 1;
    else atomicAdd(&x[0], 1.0f);
}
__global__ void shared_overrun(float *x) {
    __shared__ float s[N];
    s[threadIdx.x + 1] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = s[threadIdx.x];
}
template <int SIZE> __global__ void shared_overrun_template(float *x) {
    __shared__ float a[SIZE], b[SIZE];
    a[threadIdx.x] = b[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = a[threadIdx.x + 1] + b[threadIdx.x + 1];
}
__global__ void dynamic_reverse(float *x) {
    DYNAMIC_SHARED(float, s);
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = s[N - 1 - threadIdx.x];
}
__global__ void global_overrun(float *x) { x[threadIdx.x + 1] = 1.0f; }
__global__ void divergent(float *x) {
    if (threadIdx.x < 40) {
        x[threadIdx.x] = 0;
        __syncthreads();
    } else __syncthreads();
}
__global__ void early_return(float *x) {
    if (threadIdx.x >= 50) return;
    x[threadIdx.x] = 0;
    __syncthreads();
}
__global__ void partial_shuffle(float *x) {
    float v = x[threadIdx.x];
    if (threadIdx.x < 20) v += __shfl_xor_sync(0xffffffffu, v, 1);
    x[threadIdx.x] = v;
}
__global__ void inactive_lane(float *x) {
    float v = x[threadIdx.x];
    if (threadIdx.x < 16) v = __shfl_down_sync(0x0000ffffu, v, 1);
    x[threadIdx.x] = v;
}
__global__ void mask_without_me(float *x) { x[threadIdx.x] = __shfl_sync(0x0000ffffu, x[threadIdx.x], 0); }
__global__ void divergent_warp(float *x) {
    float v = x[threadIdx.x];
    if (threadIdx.x % 32 < 16) v = __shfl_xor_sync(0xffffffffu, v, 1);
    else v = __shfl_down_sync(0xffffffffu, v, 1);
    x[threadIdx.x] = v;
}
__global__ void unwritten_shared(float *x) {
    __shared__ float s[N];
    if (threadIdx.x != 7) s[threadIdx.x] = 1;
    __syncthreads();
    x[threadIdx.x] = s[N - 1 - threadIdx.x];
}
template <int SIZE> __global__ void unwritten_shared_template(float *x) {
    __shared__ float s[SIZE];
    if (threadIdx.x != 7) s[threadIdx.x] = 1;
    __syncthreads();
    x[threadIdx.x] = s[SIZE - 1 - threadIdx.x];
}
__global__ void accumulate(float *y, const float *x) { y[threadIdx.x] += x[threadIdx.x]; }
__global__ void load_unwritten(float *x, const float *y) {
    x[threadIdx.x] = __ldg(&y[threadIdx.x]);        // line 118: the table says so
}
__global__ void misaligned(float *x) {
    *reinterpret_cast<float4 *>(x + 1 + threadIdx.x * 4) = make_float4(1, 2, 3, 4);
}
struct Rows { float *first; };
__global__ void through_struct(Rows rows) { rows.first[threadIdx.x] = 1; }
__global__ void null_pointer(float *x) { x[threadIdx.x] = 1; }
__device__ float use(const float *x) {
    float s = 0;
    for (int i = 0; i < 100000; i++) s += x[i];
    return s;
}
__global__ void large_stack(float *x) {
    volatile float local[100000];
    for (int i = 0; i < 100000; i++) local[i] = x[i % N];
    x[threadIdx.x] = use((const float *)local);
}
__global__ void async_copy(float *y, const float *x, bool wait) {
    __shared__ __align__(16) float s[N];
    if (threadIdx.x < N / 4) cp_async16(&s[4 * threadIdx.x], &x[4 * threadIdx.x]);
    cp_async_commit();
    if (wait) cp_async_wait<0>();
    __syncthreads();
    y[threadIdx.x] = s[N - 1 - threadIdx.x];
}
__global__ void misaligned_ldmatrix(float *y) {
    __shared__ __align__(128) __nv_bfloat16 s[32 * 8 + 8];
    for (int i = threadIdx.x; i < 32 * 8 + 8; i += 32) s[i] = __float2bfloat16(1.0f);
    __syncwarp();
    unsigned r[4];
    ldmatrix_x4(r, &s[threadIdx.x * 8 + 1]);
    y[threadIdx.x] = (float)r[0];
}

// ---- what is done with them -----------------------------------------------------------------------------------------
static float *device_x, *device_y;                  // numbers 0..255, and 256 that nobody has written
static float host[4 * N], result[N];
static bool wrong;
static void compare_host(const float *x, const char *what, float (*want)(int)) {
    for (int i = 0; i < N && !wrong; i++) {
        wrong = !(x[i] == want(i));
        if (wrong) printf("WRONG: %s[%d] is %g, not %g\n", what, i, x[i], want(i));
    }
}
static void compare(const float *x, const char *what, float (*want)(int)) {
    cudaMemcpy(result, x, N * sizeof(float), cudaMemcpyDeviceToHost);
    compare_host(result, what, want);
}
static float reversed(int i) { return (float)(N - 1 - i); }
static float same(int i) { return (float)i; }
static float one(int) { return 1; }
static float warp_total(int i) { return i < 32 ? 496.0f : 1520.0f; }
static float total_256(int) { return 255 * 128; }

static void control() {
    launch(reverse, 1, N, 0, 0, device_x);
    compare(device_x, "x", reversed);
    launch(async_copy, 1, N, 0, 0, device_y, device_x, true);
    compare(device_y, "y", same);
}
static void missing_barrier() { launch(no_barrier, 1, N, 0, 0, device_x); compare(device_x, "x", reversed); }
static void missing_second_barrier() {
    launch(no_second_barrier, 1, N, 0, 0, device_y, device_x);
    compare(device_y, "y", total_256);
}
static void missing_syncwarp() { launch(no_syncwarp, 1, N, 0, 0, device_y, device_x); }
static void old_warp_code() { launch(warp_synchronous, 1, N, 0, 0, device_x); compare(device_x, "x", warp_total); }
static void missing_atomic() {
    int tokens[4] = {0, 1, 0, 2}, *device_tokens = nullptr;
    cudaMalloc(&device_tokens, sizeof tokens);
    cudaMemcpy(device_tokens, tokens, sizeof tokens, cudaMemcpyHostToDevice);
    cudaMemset(device_y, 0, N * sizeof(float));
    launch(no_atomic, 4, 16, 0, 0, device_y, device_tokens, device_x);
    cudaFree(device_tokens);
}
static void race_of_blocks() { launch(block_race, 8, 32, 0, 0, device_x); }
static void atomic_and_plain() { launch(mixed_atomic, 1, N, 0, 0, device_x); }
static void past_shared() { launch(shared_overrun, 1, N, 0, 0, device_x); }
static void past_shared_in_template() { launch(shared_overrun_template<N>, 1, N, 0, 0, device_x); }
static void past_dynamic() { launch(dynamic_reverse, 1, N, (N - 1) * sizeof(float), 0, device_x); }
static void past_global() {
    float *exact = nullptr;
    cudaMalloc(&exact, 256);
    launch(global_overrun, 1, 64, 0, 0, exact);
    cudaFree(exact);
}
static void divergent_barrier() { launch(divergent, 1, N, 0, 0, device_x); }
static void return_before_barrier() { launch(early_return, 1, N, 0, 0, device_x); }
static void shuffle_without_lanes() { launch(partial_shuffle, 1, 32, 0, 0, device_x); }
static void shuffle_outside_mask() { launch(inactive_lane, 1, 32, 0, 0, device_x); }
static void shuffle_not_in_mask() { launch(mask_without_me, 1, 32, 0, 0, device_x); }
static void two_shuffles_at_once() { launch(divergent_warp, 1, 32, 0, 0, device_x); }
static void shuffle_of_half_a_warp() { launch(partial_shuffle, 1, 16, 0, 0, device_x); }
static void shared_not_written() { launch(unwritten_shared, 1, N, 0, 0, device_x); compare(device_x, "x", one); }
static void shared_not_written_in_template() {
    launch(unwritten_shared_template<N>, 1, N, 0, 0, device_x);
    compare(device_x, "x", one);
}
static void global_not_written() { launch(accumulate, 1, N, 0, 0, device_y, device_x); compare(device_y, "y", same); }
static void load_not_written() { launch(load_unwritten, 1, N, 0, 0, device_x, device_y); compare(device_x, "x", same); }
static void host_pointer() { launch(reverse, 1, N, 0, 0, host); }
static void host_pointer_in_struct() {
    std::vector<float> heap(N);
    launch(through_struct, 1, N, 0, 0, Rows{heap.data()});
    cudaDeviceSynchronize();
}
static void null_argument() { launch(null_pointer, 1, N, 0, 0, nullptr); }
static void use_after_free() {
    float *p = nullptr;
    cudaMalloc(&p, N * sizeof(float));
    cudaFree(p);
    launch(reverse, 1, N, 0, 0, p);
}
static void use_after_free_in_struct() {
    float *p = nullptr;
    cudaMalloc(&p, N * sizeof(float));
    cudaFree(p);
    launch(through_struct, 1, N, 0, 0, Rows{p});
}
static void free_twice() {
    float *p = nullptr;
    cudaMalloc(&p, 4);
    cudaFree(p);
    cudaFree(p);
}
static void misaligned_vector() { launch(misaligned, 1, 15, 0, 0, device_x); }
static void too_many_threads() { launch(reverse, 1, 2048, 0, 0, device_x); }
static void too_much_shared() { launch(dynamic_reverse, 1, N, 60000, 0, device_x); }
static void full_stack() { launch(large_stack, 1, N, 0, 0, device_x); }
static void copy_too_long() { cudaMemcpy(device_x, host, sizeof host + 4, cudaMemcpyHostToDevice); }
static void copy_of_wrong_kind() { cudaMemcpy(device_x, device_y, 4, cudaMemcpyHostToDevice); }
static void leak() {
    float *p = nullptr;
    cudaMalloc(&p, 100);
}
static void missing_async_wait() {
    launch(async_copy, 1, N, 0, 0, device_y, device_x, false);
    compare(device_y, "y", reversed);
}
static void row_of_ldmatrix() { launch(misaligned_ldmatrix, 1, 32, 0, 0, device_y); }

static void missing_stream_synchronize() {
    float *pinned = nullptr;
    cudaStream_t stream;
    cudaStreamCreate(&stream);
    cudaMallocHost(&pinned, N * sizeof(float));
    launch(reverse, 1, N, 0, stream, device_x);
    cudaMemcpyAsync(pinned, device_x, N * sizeof(float), cudaMemcpyDeviceToHost, stream);
    compare_host(pinned, "pinned", reversed);
    cudaFreeHost(pinned);
    cudaStreamDestroy(stream);
}
static void overwritten_too_soon() {                // the host fills a buffer that a stream still has to read
    float *pinned = nullptr;
    cudaStream_t stream;
    cudaStreamCreate(&stream);
    cudaMallocHost(&pinned, N * sizeof(float));
    for (int i = 0; i < N; i++) pinned[i] = (float)i;
    cudaMemcpyAsync(device_y, pinned, N * sizeof(float), cudaMemcpyHostToDevice, stream);
    for (int i = 0; i < N; i++) pinned[i] = -1;
    cudaStreamSynchronize(stream);
    compare(device_y, "y", same);
    cudaFreeHost(pinned);
    cudaStreamDestroy(stream);
}
static void missing_event() {                       // one stream writes y, another one reads it
    cudaStream_t writes, reads;
    float *z = nullptr;
    cudaStreamCreate(&writes);
    cudaStreamCreate(&reads);
    cudaMalloc(&z, N * sizeof(float));
    cudaMemset(z, 0, N * sizeof(float));
    launch(async_copy, 1, N, 0, writes, device_y, device_x, true);
    launch(accumulate, 1, N, 0, reads, z, device_y);
    cudaStreamSynchronize(reads);
    cudaStreamSynchronize(writes);
    compare(z, "z", reversed);
    cudaFree(z);
    cudaStreamDestroy(writes);
    cudaStreamDestroy(reads);
}
static void stream_that_does_not_block() {          // cudaMemcpy does not wait for a stream of this kind
    cudaStream_t stream;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    launch(reverse, 1, N, 0, stream, device_x);
    compare(device_x, "x", reversed);
    cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
}
static void memory_of_another_device() {
    cudaSetDevice(1);
    launch(reverse, 1, N, 0, 0, device_x);
}
static void memory_of_another_device_in_struct() {
    cudaSetDevice(1);
    launch(through_struct, 1, N, 0, 0, Rows{device_x});
    cudaDeviceSynchronize();
}
static void stream_of_another_device() {
    cudaStream_t stream;
    cudaStreamCreate(&stream);
    cudaSetDevice(1);
    launch(through_struct, 1, N, 0, stream, Rows{device_x});
}

struct Bug { void (*run)(); const char *name, *plain, *asan, *check; };
static const char *const NO = "-";
static const Bug bugs[] = {
    {control, "none: the control", NO, NO, NO},
    {missing_barrier, "missing __syncthreads, read before written", "WRONG", "WRONG", "RACE"},
    {missing_second_barrier, "missing __syncthreads, written before read", "WRONG", "WRONG", "RACE"},
    {missing_syncwarp, "missing __syncwarp beside a shuffle", NO, NO, "RACE"},
    {old_warp_code, "warp-synchronous code", "WRONG", "WRONG", "RACE"},
    {missing_atomic, "missing atomicAdd, embedding gradient", NO, NO, "RACE"},
    {race_of_blocks, "+= by several blocks", NO, NO, "RACE"},
    {atomic_and_plain, "an atomic and a plain write", NO, NO, "RACE"},
    {past_shared, "past the end of a shared array", NO, "out of bounds", NO},
    {past_shared_in_template, "the same in a template", NO, "out of bounds", NO},
    {past_dynamic, "past the end of dynamic shared memory", NO, "use-after-poison", "OUT OF BOUNDS of dynamic"},
    {past_global, "one past the end of global memory", NO, "heap-buffer-overflow", "OUT OF BOUNDS"},
    {divergent_barrier, "divergent __syncthreads", "divergent __syncthreads", "divergent __syncthreads", "divergent"},
    {return_before_barrier, "return before __syncthreads", "50..63 returned", "50..63 returned", "50..63 returned"},
    {shuffle_without_lanes, "shuffle without all its lanes", "20..31 returned", "20..31 returned", "20..31 returned"},
    {shuffle_outside_mask, "shuffle from a lane outside the mask", "reads lane 16", "reads lane 16", "reads lane 16"},
    {shuffle_not_in_mask, "shuffle by a lane outside the mask", "does not name it", "does not name it", "not name it"},
    {two_shuffles_at_once, "two different shuffles in one warp", "warp divergence", "warp divergence", "divergence"},
    {shuffle_of_half_a_warp, "full mask in a warp of 16 lanes", "does not have", "does not have", "does not have"},
    {shared_not_written, "shared memory that nobody wrote", "WRONG", "WRONG", "UNINITIALISED"},
    {shared_not_written_in_template, "the same in a template", "WRONG", "WRONG", "UNINITIALISED"},
    {global_not_written, "+= on fresh global memory", "WRONG", "WRONG", "UNINITIALISED"},
    {load_not_written, "__ldg of fresh memory, with its line", "WRONG", "WRONG", "at planted.cu:118"},
    {host_pointer, "host pointer as argument", "a host pointer", "a host pointer", "a host pointer"},
    {host_pointer_in_struct, "host pointer inside an argument", NO, NO, "ILLEGAL ADDRESS"},
    {null_argument, "null pointer", "ILLEGAL ADDRESS", "null pointer", "ILLEGAL ADDRESS"},
    {use_after_free, "use after cudaFree", "was freed at", "was freed at", "was freed at"},
    {use_after_free_in_struct, "use after cudaFree, pointer in a struct", NO, "heap-use-after-free", "was freed"},
    {free_twice, "cudaFree twice", "was freed before", "was freed before", "was freed before"},
    {misaligned_vector, "misaligned float4", NO, "misaligned address", "MISALIGNED"},
    {too_many_threads, "2048 threads in a block", "2048 threads", "2048 threads", "2048 threads"},
    {too_much_shared, "60000 bytes of shared memory unasked", "60000 bytes", "60000 bytes", "60000 bytes"},
    {full_stack, "a local array that is too large", "stack of a thread is full", "stack-overflow", "stack of a thread"},
    {copy_too_long, "cudaMemcpy past the end", "leaves its destination", "leaves its dest", "leaves its dest"},
    {copy_of_wrong_kind, "cudaMemcpy of the wrong kind", "its source is device", "its source is", "its source is"},
    {leak, "cudaMalloc without cudaFree", "LEAK: 100 bytes", "LEAK: 100 bytes", "LEAK: 100 bytes"},
    {missing_async_wait, "missing cp.async.wait_group", "WRONG", "WRONG", "TOO EARLY"},
    {row_of_ldmatrix, "misaligned row for ldmatrix", "not aligned", "not aligned", "not aligned"},
    {missing_stream_synchronize, "missing cudaStreamSynchronize", "WRONG", "WRONG", "WRONG"},
    {overwritten_too_soon, "host overwrites a buffer in flight", "WRONG", "WRONG", "WRONG"},
    {missing_event, "missing event between two streams", "WRONG", "WRONG", "WRONG"},
    {stream_that_does_not_block, "cudaMemcpy does not wait for this stream", "WRONG", "WRONG", "WRONG"},
    {memory_of_another_device, "memory of another device", "memory of device 0", "memory of device 0", "of device 0"},
    {memory_of_another_device_in_struct, "memory of another device, in a struct", NO, NO, "memory of device 0"},
    {stream_of_another_device, "stream of another device", "belongs to device 0", "belongs to device 0", "device 0"},
};

int main(int argc, char **argv) {
    const int count = (int)(sizeof bugs / sizeof *bugs);
    if (argc > 1 && !strcmp(argv[1], "count")) return printf("%d\n", count), 0;
    bool show = argc > 2 && !strcmp(argv[1], "show");
    int n = argc > 1 ? atoi(argv[show ? 2 : 1]) : 0;
    if (n < 0 || n >= count) return printf("there is no bug %d\n", n), 2;
    if (show) return printf("%s|%s|%s|%s\n", bugs[n].name, bugs[n].plain, bugs[n].asan, bugs[n].check), 0;
    cudaMalloc(&device_x, sizeof host);
    cudaMalloc(&device_y, sizeof host);
    for (int i = 0; i < 4 * N; i++) host[i] = (float)i;
    cudaMemcpy(device_x, host, sizeof host, cudaMemcpyHostToDevice);
    bugs[n].run();
    cudaSetDevice(0);
    cudaFree(device_x);
    cudaFree(device_y);
    return wrong ? 3 : 0;
}
