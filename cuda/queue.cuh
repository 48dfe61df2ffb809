/*
queue.cuh - work for a GPU: gathered until somebody asks for a result, and replayed as a CUDA graph when it comes again.

    Queue q = {};
    queue_create(&q, stream);
    launch(kernel, grid, block, shared, &q, arguments...);      // instead of launch(..., stream, ...)
    queue_read(&q, host, device, bytes);                        // all of the above is done now

A launch costs the host some microseconds, about as long as a small kernel runs, and a training step of a GPT has
hundreds of them: the GPU would wait for the host. In a CUDA graph they are one launch. A step calls the same kernels
with the same arguments as the one before, since autograd.h's arenas repeat their addresses, and that is all that this
file builds on: what was queued between two results is a SEGMENT, a row of bytes, and when the same bytes come for the
second time, the launches are captured as a graph. From the third time on comparing bytes is all that happens. Nobody
has to declare what a step is; a segment that does not repeat is launched kernel by kernel.

What differs from step to step must therefore not be an argument. Numbers that the host makes, learning rates,
corrections of AdamW's moments and the ids of tokens, are put into a page of pinned memory (queue_stage), whose copy to
the device is the first item of the segment; the kernels get the address where they will be found.

A training step is two segments: the optimizer of the step before and forward, up to the loss; then backward, up to the
norm of the gradient. AG_CUDA_GRAPHS=0 in the environment launches everything at once, for debuggers and profilers.

Names: an ITEM is a launch, a copy or a call of a library; a SEGMENT the items between two flushes.
*/
#ifndef QUEUE_CUH
#define QUEUE_CUH
#include "cuda_on_cpu.h"
#include <cstring>
#include <new>
#include <tuple>
#include <type_traits>
#include <vector>

enum { QUEUE_GRAPHS = 256, QUEUE_LEAST = 4 };       // segments that are remembered; items of those worth a graph
enum { QUEUE_PAGE = 256 << 10, QUEUE_PIECE = 64 << 10 };        // bytes of the page, and of what is staged at most

// The head of an item; what it needs follows.
struct QueueItem {
    cudaError_t (*run)(const QueueItem *item, cudaStream_t stream);
    const char *name;
    size_t bytes;                                   // with the head, a multiple of 16
};
struct QueueSegment {                               // one that was seen, and its graph if it was seen again
    std::vector<char> items;
    cudaGraphExec_t graph;
    unsigned long used;                             // when it was used last
};
struct Queue {
    cudaStream_t stream;
    const char *what;                               // the name of the items that come next
    int immediate;                                  // no segments: everything is launched as it comes
    std::vector<char> items;                        // the page's copy, and `count` more
    int count;
    char *page, *device_page;
    size_t staged, copied;                          // bytes of the page in use, and those of earlier segments
    std::vector<QueueSegment> seen;
    unsigned long clock;
    long replayed, launched;                        // items by way of a graph, and one by one
    cudaError_t error;                              // the first one,
    const char *failed;                             // and what it came from; nothing is started after it
};

static inline cudaError_t queue_flush(Queue *q);

// ---- items ----------------------------------------------------------------------------------------------------------
struct QueueCopy : QueueItem {
    void *to;
    const void *from;
    size_t size;
    cudaMemcpyKind kind;
    int unused;                                     // no padding, see queue_append
};
static inline cudaError_t queue_run_copy(const QueueItem *item, cudaStream_t stream) {
    const QueueCopy *c = static_cast<const QueueCopy *>(item);
    return c->size ? cudaMemcpyAsync(c->to, c->from, c->size, c->kind, stream) : cudaSuccess;
}

// Two segments are the same if their bytes are, so there must be no stray ones between the members: an item is made in
// memory that was cleared. A struct among the arguments of a kernel would bring its own padding along, and graphs would
// be missed: those of this backend have none.
template <class Item, class... From> static inline void queue_append(Queue *q, const From &...from) {
    static_assert(std::is_trivially_destructible<Item>::value && alignof(Item) <= 16, "items are kept as bytes");
    size_t at = q->items.size(), bytes = (sizeof(Item) + 15) / 16 * 16;
    q->items.resize(at + bytes);                    // zeros
    Item *item = new (&q->items[at]) Item(from...);
    item->name = q->what, item->bytes = bytes;
}
template <class Item, class... From> static inline void queue_put(Queue *q, const From &...from) {
    if (q->items.empty()) {                         // the page; queue_flush knows how much of it
        QueueCopy page = {};
        page.run = queue_run_copy, page.kind = cudaMemcpyHostToDevice;
        page.to = q->device_page + q->copied, page.from = q->page + q->copied;
        queue_append<QueueCopy>(q, page);
    }
    queue_append<Item>(q, from...);
    q->count++;
    if (q->immediate) queue_flush(q);
}

template <class... Parameters> struct QueueLaunch : QueueItem {
    void (*kernel)(Parameters...);
    LaunchGrid grid;
    dim3 block;
    size_t shared_bytes;
    std::tuple<Parameters...> arguments;
    QueueLaunch(void (*k)(Parameters...), LaunchGrid g, dim3 b, size_t s, const Parameters &...a)
        : QueueItem(), kernel(k), grid(g), block(b), shared_bytes(s), arguments(a...) { run = start; }
    static cudaError_t start(const QueueItem *item, cudaStream_t stream) {
        const QueueLaunch *l = static_cast<const QueueLaunch *>(item);
        std::apply([=](const Parameters &...each) {
            launch(l->kernel, l->grid, l->block, l->shared_bytes, stream, each...);
        }, l->arguments);
        return cudaGetLastError();
    }
};
// As launch() into a stream.
template <class... Parameters, class... Arguments>
static inline void launch(void (*kernel)(Parameters...), LaunchGrid grid, dim3 block, size_t shared_bytes, Queue *q,
                          Arguments... arguments) {
    queue_put<QueueLaunch<Parameters...>>(q, kernel, grid, block, shared_bytes, static_cast<Parameters>(arguments)...);
}

struct QueueClear : QueueItem { void *to; size_t size; };
static inline cudaError_t queue_run_clear(const QueueItem *item, cudaStream_t stream) {
    const QueueClear *c = static_cast<const QueueClear *>(item);
    return cudaMemsetAsync(c->to, 0, c->size, stream);
}
static inline void queue_clear(Queue *q, void *to, size_t bytes) {
    QueueClear c = {};
    c.run = queue_run_clear, c.to = to, c.size = bytes;
    queue_put<QueueClear>(q, c);
}

// ---- segments -------------------------------------------------------------------------------------------------------
static inline int queue_failed(Queue *q, cudaError_t error, const char *what) {
    if (error == cudaSuccess) return 0;
    if (q->error == cudaSuccess) q->error = error, q->failed = what;
    cudaGetLastError();                             // it is told of here, and not by the next launch
    return -1;
}
static inline void queue_run(Queue *q) {            // item after item, into the stream or into what is captured of it
    for (size_t at = 0; at < q->items.size() && q->error == cudaSuccess;) {
        const QueueItem *item = reinterpret_cast<const QueueItem *>(&q->items[at]);
        queue_failed(q, item->run(item, q->stream), item->name);
        at += item->bytes;
    }
}
static inline void queue_capture(Queue *q, cudaGraphExec_t *to) {
    cudaGraph_t graph = nullptr;
    if (queue_failed(q, cudaStreamBeginCapture(q->stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture"))
        return;
    queue_run(q);
    queue_failed(q, cudaStreamEndCapture(q->stream, &graph), "cudaStreamEndCapture");
    if (q->error == cudaSuccess) queue_failed(q, cudaGraphInstantiate(to, graph, 0), "cudaGraphInstantiate");
    if (graph) cudaGraphDestroy(graph);
}
// The one with these items; if there is none, an empty one that takes the place of the one that was used longest ago.
static inline QueueSegment *queue_find(Queue *q) {
    QueueSegment *oldest = nullptr;
    for (QueueSegment &s : q->seen) {
        if (s.items == q->items) return &s;
        if (!oldest || s.used < oldest->used) oldest = &s;
    }
    if (q->seen.size() < QUEUE_GRAPHS) return q->seen.push_back({}), &q->seen.back();
    if (oldest->graph) {                            // it may be running
        queue_failed(q, cudaStreamSynchronize(q->stream), "cudaStreamSynchronize");
        queue_failed(q, cudaGraphExecDestroy(oldest->graph), "cudaGraphExecDestroy");
    }
    *oldest = {};
    return oldest;
}
// Starts what was queued, and does not wait for it.
static inline cudaError_t queue_flush(Queue *q) {
    if (q->error != cudaSuccess) q->items.clear(), q->count = 0;
    if (!q->count) return q->error;
    reinterpret_cast<QueueCopy *>(&q->items[0])->size = q->staged - q->copied;
    long *counted = &q->launched;
    if (q->immediate || q->count < QUEUE_LEAST) queue_run(q);
    else {
        QueueSegment *s = queue_find(q);
        bool again = !s->items.empty();
        s->used = ++q->clock;
        if (again && !s->graph) queue_capture(q, &s->graph);
        if (s->graph && q->error == cudaSuccess)
            queue_failed(q, cudaGraphLaunch(s->graph, q->stream), "cudaGraphLaunch"), counted = &q->replayed;
        else queue_run(q);
        if (!again) s->items = q->items;
    }
    *counted += q->count;
    q->items.clear(), q->count = 0, q->copied = q->staged;
    return q->error;
}
static inline cudaError_t queue_wait(Queue *q) {    // until all is done
    queue_flush(q);
    queue_failed(q, cudaStreamSynchronize(q->stream), "cudaStreamSynchronize");
    q->staged = q->copied = 0;                      // nobody reads the page any more
    return q->error;
}

// ---- what comes from the host and goes there ------------------------------------------------------------------------
// The address on the device of a copy of `bytes` bytes, at most QUEUE_PIECE, for the item put next (one call for
// each item). The same program gets the same addresses again after each result. NULL after an error.
static inline const void *queue_stage(Queue *q, const void *from, size_t bytes) {
    if (q->error != cudaSuccess) return nullptr;
    if (q->staged + bytes > QUEUE_PAGE && queue_wait(q) != cudaSuccess) return nullptr;
    size_t at = q->staged;
    memcpy(q->page + at, from, bytes);
    q->staged += (bytes + 15) / 16 * 16;
    return q->device_page + at;
}
static inline cudaError_t queue_write(Queue *q, void *to, const void *host, size_t bytes) {
    if (bytes <= QUEUE_PIECE) {
        QueueCopy c = {};
        c.run = queue_run_copy, c.to = to, c.from = queue_stage(q, host, bytes), c.size = bytes;
        c.kind = cudaMemcpyDeviceToDevice;
        if (c.from) queue_put<QueueCopy>(q, c);
        return q->error;
    }
    if (queue_flush(q) == cudaSuccess)
        queue_failed(q, cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, q->stream), "cudaMemcpyAsync");
    return queue_wait(q);                           // the caller may change its memory now
}
static inline cudaError_t queue_read(Queue *q, void *host, const void *from, size_t bytes) {
    if (queue_flush(q) == cudaSuccess)
        queue_failed(q, cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, q->stream), "cudaMemcpyAsync");
    return queue_wait(q);
}

// ---- beginning and end ----------------------------------------------------------------------------------------------
static inline cudaError_t queue_create(Queue *q, cudaStream_t stream) {
    const char *graphs = getenv("AG_CUDA_GRAPHS");
    q->stream = stream, q->what = "", q->immediate = graphs && !strcmp(graphs, "0");
    if (!queue_failed(q, cudaMallocHost(&q->page, QUEUE_PAGE), "cudaMallocHost"))
        queue_failed(q, cudaMalloc(&q->device_page, QUEUE_PAGE), "cudaMalloc");
    return q->error;
}
static inline cudaError_t queue_destroy(Queue *q) {
    queue_wait(q);
    for (QueueSegment &s : q->seen)
        if (s.graph) queue_failed(q, cudaGraphExecDestroy(s.graph), "cudaGraphExecDestroy");
    queue_failed(q, cudaFree(q->device_page), "cudaFree");
    queue_failed(q, cudaFreeHost(q->page), "cudaFreeHost");
    return q->error;
}
#endif
