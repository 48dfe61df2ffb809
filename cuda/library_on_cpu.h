/*
library_on_cpu.h - what cublas_on_cpu.h and nccl_on_cpu.h have in common on the CPU: numbers of two types, and what a
library demands of the memory that it is given. No program includes it itself.

A library on a GPU takes an address and believes it. Here it has to lie in one allocation from cudaMalloc, whole, on the
device that is meant, aligned to its type; with the checker, everything that is read has to have been written.
*/
#ifndef LIBRARY_ON_CPU_H
#define LIBRARY_ON_CPU_H
#include "cuda_on_cpu.h"
#include <set>

namespace cuda_on_cpu {

struct Call { const char *name, *file; int line; };     // of a library's function, for messages

// Numbers of 4 bytes are float32, of 2 bytes bfloat16. Both are computed with as float32.
CUDA_ON_CPU_RAW inline float load_number(const void *p, size_t i, size_t bytes) {
    return bytes == 4 ? ((const float *)p)[i] : (float)((const __nv_bfloat16 *)p)[i];
}
CUDA_ON_CPU_RAW inline void store_number(void *p, size_t i, size_t bytes, float value) {
    if (bytes == 4) ((float *)p)[i] = value;
    else ((__nv_bfloat16 *)p)[i] = __float2bfloat16(value);
}

// Handles and communicators that exist. Those of a library that was left are not used again.
inline std::set<const void *> library_objects;
CUDA_ON_CPU_RAW inline void check_object(const Call &call, const void *object, const char *what) {
    if (!library_objects.count(object))
        fail("%s at %s:%d: no such %s; was it destroyed, or never created?", call.name, call.file, call.line, what);
}

// An operand of a call: where it may be wrong, and what to say then. For name "A" the messages speak of A.
CUDA_ON_CPU_RAW inline void check_operand(const Call &call, const char *name, const void *p, size_t bytes,
                                          size_t alignment, int device) {
    if (!bytes) return;
    auto it = find_in(machine.memory, p, 0), gone = find_in(machine.freed, p, 1);
    if (it == machine.memory.end() && gone != machine.freed.end())
        fail("%s at %s:%d: %s was freed at %s:%d", call.name, call.file, call.line, name, gone->second.file,
             gone->second.line);
    if (it == machine.memory.end() || it->second.device == HOST)
        fail("%s at %s:%d: %s at %p is host memory. Copy it to memory from cudaMalloc", call.name, call.file, call.line,
             name, p);
    size_t offset = (uintptr_t)p - it->first;
    if (bytes > it->second.bytes - offset)
        fail("%s at %s:%d: %s leaves its allocation: it takes %zu bytes from byte %zu of the %zu allocated at %s:%d",
             call.name, call.file, call.line, name, bytes, offset, it->second.bytes, it->second.file, it->second.line);
    if (it->second.device != device)
        fail("%s at %s:%d: %s is memory of device %d (allocated at %s:%d), the call runs on device %d", call.name,
             call.file, call.line, name, it->second.device, it->second.file, it->second.line, device);
    if ((uintptr_t)p % alignment)
        fail("%s at %s:%d: %s at %p is not aligned to %zu bytes", call.name, call.file, call.line, name, p, alignment);
}

// Just before a library reads, and after it has written. Without the checker what nobody wrote is NaN.
CUDA_ON_CPU_RAW inline void check_library_read(const Call &call, const char *name, const void *p, size_t bytes) {
#ifdef CUDA_ON_CPU_CHECK
    for (auto [s, last] = states(p, bytes); s < last; s++)
        if (!(*s & WRITTEN))
            fail("%s at %s:%d: UNINITIALISED: it reads bytes of %s that nobody has written", call.name, call.file,
                 call.line, name);
#else
    (void)call, (void)name, (void)p, (void)bytes;
#endif
}
CUDA_ON_CPU_RAW inline void note_library_write(const void *p, size_t bytes) {
#ifdef CUDA_ON_CPU_CHECK
    check_written(p, bytes);
#else
    (void)p, (void)bytes;
#endif
}
} // namespace cuda_on_cpu
#endif
