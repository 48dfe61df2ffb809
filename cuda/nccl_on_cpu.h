/*
nccl_on_cpu.h - sums and copies between GPUs as NCCL makes them, for one process that drives all of them: under nvcc the
library itself, on the CPU the same calls with the same results, queued in their streams like kernels, and with checks.

    #include "nccl_on_cpu.h"            (instead of nccl.h)
    nvcc -std=c++17 -Icuda prog.cu -lnccl                       on GPUs
    g++ -std=c++17 -g -Icuda -x c++ prog.cu                     on the CPU; the other builds of cuda_on_cpu.h too
    CUDA_ON_CPU_DEVICES=4 ./a.out                               with four devices

EXAMPLE, the gradients of all devices become their mean:
    ncclCommInitAll(comm, devices, NULL);
    ncclGroupStart();
    for (int d = 0; d < devices; d++)
        ncclAllReduce(gradient[d], gradient[d], n, ncclFloat, ncclAvg, comm[d], stream[d]);
    ncclGroupEnd();

A rank's call waits for the same call of all others, so one thread that makes them one after another would wait for
itself: between ncclGroupStart and ncclGroupEnd they are collected, and begin together. Each stream waits until the last
one has come there, and goes on when all is done; the host waits for nothing.

WHAT IT KNOWS      ncclCommInitAll, ncclCommDestroy, ncclGroupStart, ncclGroupEnd, ncclGetErrorString; ncclAllReduce,
ncclReduceScatter (both ncclSum or ncclAvg), ncclAllGather, ncclBroadcast; ncclFloat and ncclBfloat16.

WHAT IT FINDS      What would hang: a rank that never makes the call, ranks that make calls in different orders, a group
that is not closed. Counts, types, operators and roots that differ. Buffers that leave their allocation, lie on another
device, overlap without being in place. With the checker, buffers that nobody has written.

LIMITS      Sums are made in float32 in the order of ranks and rounded once; NCCL's order depends on the number of GPUs,
and it rounds after each addition. No processes, no point-to-point calls, several ranks in no captured stream.
*/
#ifndef NCCL_ON_CPU_H
#define NCCL_ON_CPU_H
#include "cuda_on_cpu.h"

#ifdef __CUDACC__
#include <nccl.h>
#else
#include "library_on_cpu.h"

// The numbers are those of NVIDIA's header.
enum ncclResult_t { ncclSuccess = 0, ncclInvalidArgument = 4 };
enum ncclDataType_t { ncclFloat32 = 7, ncclFloat = 7, ncclBfloat16 = 9 };
enum ncclRedOp_t { ncclSum = 0, ncclAvg = 4 };

namespace cuda_on_cpu {

struct Communicator;
typedef std::shared_ptr<std::vector<Communicator *>> Ranks;     // of those that talk to each other
struct Communicator {
    int rank, device;
    Ranks all;
};

enum CollectiveKind { ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST };
struct Collective {                                 // one rank's call
    Call call;
    CollectiveKind kind;
    const void *send;
    void *receive;
    size_t count;                                   // as the caller gives it: of the smaller buffer
    ncclDataType_t type;
    ncclRedOp_t op;
    int root;
    Communicator *rank;
    Stream *stream;
    size_t item() const { return type == ncclBfloat16 ? 2 : 4; }
    size_t ranks() const { return rank->all->size(); }
    size_t sends() const {
        if (kind == BROADCAST && rank->rank != root) return 0;
        return kind == REDUCE_SCATTER ? count * ranks() : count;
    }
    size_t receives() const { return kind == ALL_GATHER ? count * ranks() : count; }
};

struct NcclGroup {
    int depth = 0;
    Call start = {};                                // of the outermost ncclGroupStart
    std::vector<Collective> calls;
    ~NcclGroup() {
        if (depth) fail("NCCL would hang: ncclGroupStart at %s:%d has no ncclGroupEnd", start.file, start.line);
    }
};
inline NcclGroup nccl_group;

CUDA_ON_CPU_RAW inline void run_collective(const std::vector<Collective> &ranks) {
    size_t n = ranks.size(), item = ranks[0].item(), count = ranks[0].count;
    std::vector<std::vector<float>> in(n);          // all is read before anything is written: buffers may be in place
    for (const Collective &c : ranks) {
        check_library_read(c.call, "the send buffer", c.send, c.sends() * item);
        for (size_t i = 0; i < c.sends(); i++) in[(size_t)c.rank->rank].push_back(load_number(c.send, i, item));
    }
    for (const Collective &c : ranks) {
        for (size_t i = 0; i < c.receives(); i++) {
            float value = 0;
            if (c.kind == BROADCAST) value = in[(size_t)c.root][i];
            else if (c.kind == ALL_GATHER) value = in[i / count][i % count];
            else {
                size_t from = c.kind == REDUCE_SCATTER ? (size_t)c.rank->rank * count + i : i;
                for (size_t r = 0; r < n; r++) value += in[r][from];
                if (c.op == ncclAvg) value /= (float)n;
            }
            store_number(c.receive, i, item, value);
        }
        note_library_write(c.receive, c.receives() * item);
    }
}

// The work begins when the last stream has come to it, and no stream goes on before it is done.
CUDA_ON_CPU_RAW inline void issue_collective(const std::vector<Collective> &ranks) {
    std::vector<OperationRef> arrived;
    for (const Collective &c : ranks) {
        if (c.stream->capture && ranks.size() > 1)
            fail("%s at %s:%d: a captured stream; only one rank alone can be captured here", c.call.name, c.call.file,
                 c.call.line);
        if (&c != &ranks[0]) arrived.push_back(issue(c.stream, [] {}));
    }
    OperationRef work = issue(ranks[0].stream, [ranks] { run_collective(ranks); });
    if (work) work->after.insert(work->after.end(), arrived.begin(), arrived.end());
    for (const Collective &c : ranks)
        if (&c != &ranks[0]) issue(c.stream, [] {}, work);
}

CUDA_ON_CPU_RAW inline void check_same(const Collective &a, const Collective &b) {
    const Call &x = a.call, &y = b.call;
    int p = a.rank->rank, q = b.rank->rank;
    if (a.kind != b.kind)
        fail("NCCL would hang: rank %d makes %s at %s:%d while rank %d makes %s at %s:%d. All ranks have to make the "
             "same calls in the same order", p, x.name, x.file, x.line, q, y.name, y.file, y.line);
    if (a.count != b.count)
        fail("NCCL mismatch: rank %d makes %s at %s:%d with a count of %zu, rank %d at %s:%d with %zu", p, x.name,
             x.file, x.line, a.count, q, y.file, y.line, b.count);
    if (a.type != b.type || a.op != b.op || a.root != b.root)
        fail("NCCL mismatch: rank %d makes %s at %s:%d with another %s than rank %d at %s:%d", p, x.name, x.file,
             x.line, a.type != b.type ? "type" : a.op != b.op ? "operator" : "root", q, y.file, y.line);
}

// Of each rank the first call that is left belongs together.
CUDA_ON_CPU_RAW inline void end_group() {
    std::vector<Collective> calls;
    calls.swap(nccl_group.calls);
    while (!calls.empty()) {
        Collective first = calls[0];
        std::vector<Collective> together;
        for (Communicator *rank : *first.rank->all) {
            size_t i = 0;
            while (i < calls.size() && calls[i].rank != rank) i++;
            if (i == calls.size())
                fail("NCCL would hang: rank %d never makes this call, %s at %s:%d. One thread that drives several "
                     "ranks makes their calls between ncclGroupStart and ncclGroupEnd", rank->rank, first.call.name,
                     first.call.file, first.call.line);
            check_same(first, calls[i]);
            together.push_back(calls[i]);
            calls.erase(calls.begin() + (long)i);
        }
        issue_collective(together);
    }
}

CUDA_ON_CPU_RAW inline void check_buffers(const Collective &c) {
    size_t sent = c.sends() * c.item(), received = c.receives() * c.item(), rank = (size_t)c.rank->rank;
    check_operand(c.call, "the send buffer", c.send, sent, c.item(), c.rank->device);
    check_operand(c.call, "the receive buffer", c.receive, received, c.item(), c.rank->device);
    const char *from = (const char *)c.send, *to = (const char *)c.receive;
    const char *place = to;                         // where a send buffer in place begins
    if (c.kind == ALL_GATHER) place += rank * sent;
    if (c.kind == REDUCE_SCATTER) place -= rank * received;
    if (sent && from != place && from < to + received && to < from + sent)      // no broadcast reads it but the root's
        fail("%s at %s:%d: the send buffer overlaps the receive buffer, and is not in place", c.call.name, c.call.file,
             c.call.line);
}
CUDA_ON_CPU_RAW inline ncclResult_t collective(Collective c, Stream *stream) {
    Inside guard;
    check_object(c.call, c.rank, "communicator");
    for (Communicator *other : *c.rank->all) check_object(c.call, other, "communicator");
    if (c.root < 0 || (size_t)c.root >= c.ranks())
        fail("%s at %s:%d: root %d of %zu ranks", c.call.name, c.call.file, c.call.line, c.root, c.ranks());
    check_buffers(c);
    int current = machine.device;                   // within a group nobody has to call cudaSetDevice
    machine.device = c.rank->device;
    c.stream = stream_of(stream, c.call.name);
    machine.device = current;
    nccl_group.calls.push_back(c);
    if (!nccl_group.depth) end_group();
    return ncclSuccess;
}
} // namespace cuda_on_cpu

typedef cuda_on_cpu::Communicator *ncclComm_t;

static inline const char *ncclGetErrorString(ncclResult_t result) {
    return result == ncclSuccess ? "no error" : "invalid argument";
}
// devices: which one each rank lives on; null: 0, 1, 2 and so on
static inline ncclResult_t ncclCommInitAll(ncclComm_t *comms, int count, const int *devices) {
    std::set<int> taken;
    for (int i = 0; i < count; i++) {
        int device = devices ? devices[i] : i;
        if (device < 0 || device >= cuda_on_cpu::machine.devices || !taken.insert(device).second)
            return ncclInvalidArgument;             // there is no such device, or it has a rank already
    }
    if (count < 1) return ncclInvalidArgument;
    cuda_on_cpu::Ranks all = std::make_shared<std::vector<ncclComm_t>>();
    for (int i = 0; i < count; i++) {
        comms[i] = new cuda_on_cpu::Communicator{i, devices ? devices[i] : i, all};
        all->push_back(comms[i]);
        cuda_on_cpu::library_objects.insert(comms[i]);
    }
    return ncclSuccess;
}
static inline ncclResult_t ncclCommDestroy(ncclComm_t comm, CUDA_ON_CPU_SITE) {
    cuda_on_cpu::check_object({"ncclCommDestroy", file, line}, comm, "communicator");
    cuda_on_cpu::library_objects.erase(comm);
    cuda_on_cpu::finish_device(comm->device);       // what was begun is done first
    delete comm;
    return ncclSuccess;
}
static inline ncclResult_t ncclGroupStart(CUDA_ON_CPU_SITE) {
    if (!cuda_on_cpu::nccl_group.depth++) cuda_on_cpu::nccl_group.start = {"ncclGroupStart", file, line};
    return ncclSuccess;
}
static inline ncclResult_t ncclGroupEnd(CUDA_ON_CPU_SITE) {
    cuda_on_cpu::Inside guard;
    if (!cuda_on_cpu::nccl_group.depth) cuda_on_cpu::fail("ncclGroupEnd at %s:%d without ncclGroupStart", file, line);
    if (!--cuda_on_cpu::nccl_group.depth) cuda_on_cpu::end_group();
    return ncclSuccess;
}

// Each rank gets the sum or the mean of all.
static inline ncclResult_t ncclAllReduce(const void *send, void *receive, size_t count, ncclDataType_t type,
                                         ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream, CUDA_ON_CPU_SITE) {
    return cuda_on_cpu::collective({{"ncclAllReduce", file, line}, cuda_on_cpu::ALL_REDUCE, send, receive, count, type,
                                    op, 0, comm, nullptr}, stream);
}
// The same, but rank r gets only its part: elements r * count to (r + 1) * count.
static inline ncclResult_t ncclReduceScatter(const void *send, void *receive, size_t count, ncclDataType_t type,
                                             ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream, CUDA_ON_CPU_SITE) {
    return cuda_on_cpu::collective({{"ncclReduceScatter", file, line}, cuda_on_cpu::REDUCE_SCATTER, send, receive,
                                    count, type, op, 0, comm, nullptr}, stream);
}
// The other half: all ranks get all parts.
static inline ncclResult_t ncclAllGather(const void *send, void *receive, size_t count, ncclDataType_t type,
                                         ncclComm_t comm, cudaStream_t stream, CUDA_ON_CPU_SITE) {
    return cuda_on_cpu::collective({{"ncclAllGather", file, line}, cuda_on_cpu::ALL_GATHER, send, receive, count, type,
                                    ncclSum, 0, comm, nullptr}, stream);
}
static inline ncclResult_t ncclBroadcast(const void *send, void *receive, size_t count, ncclDataType_t type, int root,
                                         ncclComm_t comm, cudaStream_t stream, CUDA_ON_CPU_SITE) {
    return cuda_on_cpu::collective({{"ncclBroadcast", file, line}, cuda_on_cpu::BROADCAST, send, receive, count, type,
                                    ncclSum, root, comm, nullptr}, stream);
}
#endif // not nvcc
#endif
