/*
cuda_on_cpu_check.h - looks at every load and store of a kernel. Part of cuda_on_cpu.h, which includes it:

    g++ -std=c++17 -g -O1 -fno-tree-sra -x c++ -DCUDA_ON_CPU_CHECK -fsanitize=thread prog.cu \
        -nodefaultlibs -lstdc++ -lm -lc -lgcc_s -lgcc
    clang++ -std=c++17 -g -O1 -x c++ -DCUDA_ON_CPU_CHECK -fsanitize=thread prog.cu \
        -fno-sanitize-link-runtime -mllvm -tsan-instrument-read-before-write        (version 14 or later)

-fsanitize=thread makes the compiler call a function before each access to memory: __tsan_read4(p), __tsan_write16(p)
and so on. ThreadSanitizer itself is not linked; those functions are defined here. Found in this way, each with file
and line:

    races within a block    only __syncthreads orders, and __syncwarp within a warp; shuffles order no memory
    races between blocks    of one launch: they are never ordered, only atomics may touch the same place
    reads of global or shared memory that nobody has written
    addresses outside every allocation, freed memory, host pointers, memory of another device
    accesses that are not aligned to their size; reads of what cp.async has not delivered yet

A race is found although the threads run one after another, because it is looked for in the order that barriers give
and not in the one that happened. With errors the program ends with status 97. addr2line (binutils) turns addresses into
lines.

ENVIRONMENT
    CUDA_ON_CPU_REPORT      off     a table at the end: bytes, 32-byte sectors per warp access, bank conflicts, by line
    CUDA_ON_CPU_MAX_ERRORS  10      stop after so many different errors
    CUDA_ON_CPU_MEGABYTES   256     for all that a run allocates, at most 1024; notes take 25 times as much

LIMITS   An index that runs from one shared array into the next is not seen; AddressSanitizer sees it. Variables of the
host are taken for __device__ variables, and those are not looked at, nor are local ones.
Each two bytes remember their last writer and the last readers of two warps, so a third reader can hide a race (another
seed shows it). Launches are taken to be ordered: a missing event between two streams shows in the data, not here.
A byte of memory costs 25 of notes, taken as they are touched, and memory that was freed is not used again.
Sectors and conflicts compare the k-th execution of a line since the last barrier by each lane of a warp, in the first
two blocks of two launches of each size of a kernel: exact if the lanes do the same things, approximate where they
diverge. An optimiser that splits a float2 into two floats makes two accesses of it; -fno-tree-sra keeps g++ from that.
The ideal number of sectors takes memory as it lies: that all accesses begin one float too late is not seen.
*/
#ifndef CUDA_ON_CPU_CHECK_H
#define CUDA_ON_CPU_CHECK_H
#include <algorithm>
#include <climits>
#include <set>
#include <unordered_map>
extern "C" char __executable_start, __data_start, _end;     // the linker's

namespace cuda_on_cpu {

enum { GRANULE = 2 };                               // bytes per note
enum { ALIVE = 1, WRITTEN = 2, FREED = 4, PENDING = 8, DEVICE_SHIFT = 8 };  // of a State; device + 1 above

struct Access {
    uint32_t block_run = 0, pc = 0;                 // which block of all that have run; 0: none yet
    uint16_t barriers = 0, warp_syncs = 0, thread = 0;
    uint8_t atomic = 0, part = 0;                   // part: 1 low byte, 2 high byte, 3 both
};
struct Cell { Access writer, reader, other_reader; };
typedef uint16_t State;                             // apart from the cells, because all memory has it and most is idle
struct Note { Cell *cell; State *state; };          // on some bytes
struct Notes {                                      // on a range of memory
    Cell *cells;
    State *states;
    CUDA_ON_CPU_HOT Note operator[](size_t byte) const { return {cells + byte / GRANULE, states + byte / GRANULE}; }
};

enum SiteKind { GLOBAL_LOAD, GLOBAL_STORE, SHARED };
enum { SAMPLED_BLOCKS = 2 };                        // of a launch: the first ones
// What one execution by one lane reads or writes: nothing if it is a cp.async of zeros. phase: how many barriers came
// before it, so that lanes which skip a turn of a loop are together again after the next barrier.
struct Touch { uintptr_t from; unsigned phase; int bytes; };
struct Site {                                       // an instruction that touches memory
    SiteKind kind = GLOBAL_LOAD;
    int bytes = 0;                                  // at most
    std::vector<std::vector<Touch>> touches[SAMPLED_BLOCKS];        // by thread: its first executions
    unsigned long warp_accesses = 0, got = 0, ideal = 0;
};
struct Counts {                                     // of one kernel
    unsigned long launches = 0, blocks = 0, threads = 0, loaded = 0, stored = 0, loaded_once = 0, stored_once = 0;
    unsigned long shared = 0, atomics = 0;
    std::unordered_map<uint64_t, Site> sites;       // by address and kind: cp.async has two of these in one place
    std::map<std::vector<unsigned>, int> grids;     // how many launches there were of each size
};

template <class T> CUDA_ON_CPU_RAW T *zeros(size_t count) {     // they take no memory before they are touched
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *p = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, flags, -1, 0);
    if (p == MAP_FAILED) fail("no address space for the checker's notes, %zu bytes", count * sizeof(T));
    return (T *)p;
}
CUDA_ON_CPU_RAW inline Notes notes_on(size_t bytes) {
    return {zeros<Cell>(bytes / GRANULE), zeros<State>(bytes / GRANULE)};
}

struct Checker {
    // All emulated memory, device and pinned. Addresses are not used again, so what was freed stays known.
    static constexpr size_t ARENA = (size_t)1 << 30;
    char *arena = zeros<char>(ARENA), *top = arena;
    size_t room = (size_t)256 << 20;                // of it, to be used
    size_t image = (size_t)(&_end - &__executable_start);
    Notes on_arena = notes_on(ARENA), on_image = notes_on(image + 16), on_dynamic = notes_on(sizeof dynamic_shared);
    uint32_t block_run = 0, launch_first = 1;       // the first block run of this launch
    std::vector<uint3> blocks;                      // of this launch, as they ran
    Counts *counts = nullptr;
    std::map<std::string, Counts> kernels;
    const bool reports = is_on("CUDA_ON_CPU_REPORT");
    bool launch_sampled = false, sampled = false;
    std::vector<const Symbol *> variables;          // by address
    std::set<std::pair<uint32_t, uint32_t>> reported;
    int errors = 0, max_errors = 10;
    CUDA_ON_CPU_RAW Checker() {
        if (getenv("CUDA_ON_CPU_MAX_ERRORS")) max_errors = atoi(getenv("CUDA_ON_CPU_MAX_ERRORS"));
        if (getenv("CUDA_ON_CPU_MEGABYTES")) room = (size_t)atoi(getenv("CUDA_ON_CPU_MEGABYTES")) << 20;
        if (room > ARENA) room = ARENA;
        for (const Symbol &s : symbols().all)
            if (!s.function && s.bytes) variables.push_back(&s);
        std::sort(variables.begin(), variables.end(),
                  [](const Symbol *a, const Symbol *b) { return a->address < b->address; });
    }
};
inline Checker *the_checker = nullptr;              // outlives everything that is destroyed at the end
CUDA_ON_CPU_RAW inline Checker &make_checker() { return *(the_checker = new Checker); }
CUDA_ON_CPU_HOT inline Checker &checker() { return the_checker ? *the_checker : make_checker(); }

// File and line of some accesses. For inlined functions addr2line -i gives a list, from the inside out; a line of
// cuda_on_cpu.h (__ldg, say) stands for its caller's. -a has each list begin with the address. One call for many,
// since addr2line takes a tenth of a second to read what -g wrote.
CUDA_ON_CPU_RAW inline std::map<uint32_t, std::string> source_lines(const std::vector<uint32_t> &pcs) {
    enum { AT_ONCE = 1000 };                        // a command line has room for that many
    std::map<uint32_t, std::string> lines;
    char program[512] = "", text[600];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    program[n > 0 ? n : 0] = 0;
    for (size_t from = 0; from < pcs.size(); from += AT_ONCE) {
        std::string command = std::string("addr2line -a -i -e '") + program + "'", *line = nullptr;
        for (size_t i = from; i < pcs.size() && i < from + AT_ONCE; i++) {
            snprintf(text, sizeof text, "address 0x%x (is addr2line there, and was -g given?)", pcs[i]);
            lines[pcs[i]] = text;
            // The call returns behind itself, so the line is that of the byte before.
            snprintf(text, sizeof text, " 0x%x", pcs[i] - 1);
            command += text;
        }
        FILE *p = popen((command + " 2>/dev/null").c_str(), "r");
        while (p && fgets(text, sizeof text, p)) {
            text[strcspn(text, "\n")] = 0;
            if (!strncmp(text, "0x", 2)) {
                line = &lines[(uint32_t)strtoul(text, nullptr, 16) + 1];
                continue;
            }
            if (char *more = strstr(text, " (disc")) *more = 0;
            const char *slash = strrchr(text, '/'), *name = slash ? slash + 1 : text;
            if (!line || *name == '?') continue;
            *line = name;
            if (line->compare(0, 14, "cuda_on_cpu.h:")) line = nullptr;     // that is it; the rest are its callers
        }
        if (p) pclose(p);
    }
    return lines;
}
CUDA_ON_CPU_RAW inline std::string source_line(uint32_t pc) { return source_lines({pc})[pc]; }

CUDA_ON_CPU_RAW inline const Symbol *variable_at(uintptr_t address) {
    static const Symbol *last = nullptr;            // mostly it is the same one again
    if (last && address - last->address < last->bytes) return last;
    const std::vector<const Symbol *> &v = checker().variables;
    auto it = std::upper_bound(v.begin(), v.end(), address,
                               [](uintptr_t a, const Symbol *s) { return a < s->address; });
    if (it == v.begin() || address - it[-1]->address >= it[-1]->bytes) return nullptr;
    return last = it[-1];
}
CUDA_ON_CPU_RAW inline void print_memory(uintptr_t p) {
    uintptr_t dynamic = p - (uintptr_t)dynamic_shared;
    auto live = find_in(machine.memory, (void *)p, 1), gone = find_in(machine.freed, (void *)p, 1);
    if (dynamic < sizeof dynamic_shared) fprintf(stderr, "  byte %zu of dynamic shared memory\n", (size_t)dynamic);
    else if (const Symbol *s = variable_at(p))
        fprintf(stderr, "  byte %zu of %s\n", (size_t)(p - s->address), demangled(s->name).c_str());
    else if (live != machine.memory.end())
        fprintf(stderr, "  byte %zu of the %zu allocated at %s:%d\n", (size_t)(p - live->first), live->second.bytes,
                live->second.file, live->second.line);
    else if (gone != machine.freed.end())
        fprintf(stderr, "  byte %zu of the %zu freed at %s:%d\n", (size_t)(p - gone->first), gone->second.bytes,
                gone->second.file, gone->second.line);
    else {                                          // what lies before it?
        auto it = machine.memory.upper_bound(p);
        if (it == machine.memory.begin()) return;
        --it;
        size_t behind = p - it->first - it->second.bytes;
        if (behind < 4096)
            fprintf(stderr, "  %zu bytes behind the %zu allocated at %s:%d\n", behind, it->second.bytes,
                    it->second.file, it->second.line);
    }
}

// Each pair of source lines is reported once.
CUDA_ON_CPU_RAW inline bool fresh(uint32_t pc, uint32_t other) { return checker().reported.insert({pc, other}).second; }
__attribute__((format(printf, 4, 5)))
CUDA_ON_CPU_RAW inline void report(uint32_t pc, uint32_t other, uintptr_t p, const char *format, ...) {
    Checker &c = checker();
    va_list values;
    va_start(values, format);
    print_message(format, values);
    va_end(values);
    fprintf(stderr, "  at %s", source_line(pc).c_str());
    if (other) fprintf(stderr, ", the other access at %s", source_line(other).c_str());
    fprintf(stderr, "\n");
    print_memory(p);
    print_place();
    if (++c.errors < c.max_errors) return;
    fprintf(stderr, "cuda_on_cpu: stops after %d errors; CUDA_ON_CPU_MAX_ERRORS raises that\n", c.errors);
    stop(EXIT_CHECK);
}
CUDA_ON_CPU_RAW inline std::string who(const Access &a) {
    uint3 b = checker().blocks[a.block_run - checker().launch_first];
    char text[100];
    snprintf(text, sizeof text, "thread %d of block (%u,%u,%u)", a.thread, b.x, b.y, b.z);
    return text;
}

CUDA_ON_CPU_RAW inline void check_launch() {
    Checker &c = checker();
    c.launch_first = c.block_run + 1;
    c.counts = &c.kernels[machine.kernel->name];
    c.counts->launches++;
    c.blocks.clear();
    c.counts->threads = (unsigned long)machine.thread_count;
    dim3 grid = machine.grid_size;
    c.launch_sampled = c.reports && c.counts->grids[{grid.x, grid.y, grid.z, (unsigned)machine.thread_count}]++ < 2;
}
CUDA_ON_CPU_RAW inline void check_block_begin() {
    Checker &c = checker();
    c.block_run++;
    c.blocks.push_back(machine.block_index);
    c.counts->blocks++;
    c.sampled = c.launch_sampled && c.block_run - c.launch_first < SAMPLED_BLOCKS;
}

// What one access by a warp costs. From global memory: sectors of 32 bytes, against the least that so many bytes can do
// with. That least is not bytes / 32, for two reasons that no kernel can help. A piece of memory that begins in the
// middle of a sector (a row of 33 numbers does, but for every eighth) takes one more; so the least is that of as many
// bytes in one piece, from the lowest address on. And a piece may be too short: then it takes the rest from others.
// What is a piece says the block: one ends where the block touches nothing for a sector or more, at the end of a head
// of a row, say. So lanes that walk down the columns of a matrix are told that they could have walked along its rows,
// and numbers between those that are wanted count as a waste; what a block leaves to other blocks is not held against
// it, unless its own pieces are crumbs of less than half a sector. A column for each block, or thread t of block b at
// t * blocks + b: then each sector is moved by several blocks, and a crumb is a piece of what all of them touch.
typedef std::vector<std::pair<uintptr_t, uintptr_t>> Pieces;       // first byte, and the one behind the last
CUDA_ON_CPU_RAW inline void join(Pieces &pieces, uintptr_t gap) {  // what is less than gap apart becomes one
    std::sort(pieces.begin(), pieces.end());
    size_t n = 0;
    for (const auto &p : pieces) {
        if (n && p.first < pieces[n - 1].second + gap) pieces[n - 1].second = std::max(pieces[n - 1].second, p.second);
        else pieces[n++] = p;
    }
    pieces.resize(n);
}
CUDA_ON_CPU_RAW inline void weigh_global(Site &s, const std::vector<Touch> &lanes, const Pieces &block) {
    Pieces mine;
    for (const Touch &t : lanes) if (t.bytes) mine.push_back({t.from, t.from + (uintptr_t)t.bytes});
    join(mine, 1);
    uintptr_t last_sector = 0, piece_end = 0, bytes = 0;
    unsigned long got = 0, least = 0;
    std::vector<std::tuple<uintptr_t, uintptr_t, uintptr_t>> touched;   // pieces: length, lowest byte wanted, first
    for (const auto &p : mine) {
        uintptr_t from = p.first / 32, to = (p.second - 1) / 32;
        got += to - from + (from != last_sector);
        last_sector = to, bytes += p.second - p.first;
        if (p.first < piece_end) continue;
        auto piece = std::prev(std::upper_bound(block.begin(), block.end(), std::make_pair(p.first, UINTPTR_MAX)));
        piece_end = piece->second;
        touched.push_back({piece->second - piece->first, p.first, piece->first});
    }
    std::sort(touched.rbegin(), touched.rend());
    for (const auto &[length, low, first] : touched) {
        uintptr_t share = std::min(bytes, length), from = low + share > first + length ? first : low;
        if (share) least += (from % 32 + share + 31) / 32, bytes -= share;
    }
    s.got += got, s.ideal += std::min(got, least);
}
// From shared memory: the words in the busiest of 32 banks, against one, for each 128 bytes asked for.
CUDA_ON_CPU_RAW inline void weigh_shared(Site &s, const std::vector<Touch> &lanes) {
    size_t group = s.bytes <= 4 ? 32 : s.bytes == 8 ? 16 : 8;
    for (size_t from = 0; from < lanes.size(); from += group) {
        std::set<uintptr_t> bank[32];
        size_t busiest = 0;
        for (size_t i = from; i < lanes.size() && i < from + group; i++)
            for (int b = 0; b < lanes[i].bytes; b += 4) {
                uintptr_t word = (lanes[i].from + (uintptr_t)b) / 4;
                bank[word % 32].insert(word);
                busiest = std::max(busiest, bank[word % 32].size());
            }
        s.got += busiest;
        s.ideal++;
    }
}
// How far the memory that this launch has touched goes on from p: up (step 1) or down (-1), as above to a gap of a
// sector, and no further than a warp's crumbs need.
CUDA_ON_CPU_RAW inline uintptr_t reach(uintptr_t p, int step, SiteKind kind) {
    const Checker &c = checker();
    const Cell *cells = c.on_arena[p - (uintptr_t)c.arena].cell;
    int reached = 0;
    for (int i = 0, gap = 0; i < 512 / GRANULE && gap < 32 / GRANULE; i++, gap++) {
        const Cell &cell = cells[step < 0 ? -1 - i : i];
        if ((kind == GLOBAL_STORE ? cell.writer : cell.reader).block_run < c.launch_first) continue;
        reached = i + 1, gap = -1;
    }
    return p + (uintptr_t)(step * reached * GRANULE);
}
CUDA_ON_CPU_RAW inline void weigh_block(size_t number) {
    Checker &c = checker();
    Pieces block[SHARED];                           // what it loads and what it stores
    for (auto &entry : c.counts->sites) {
        const Site &s = entry.second;
        if (s.kind == SHARED) continue;
        for (const auto &list : s.touches[number])
            for (const Touch &t : list) if (t.bytes) block[s.kind].push_back({t.from, t.from + (uintptr_t)t.bytes});
    }
    for (SiteKind kind : {GLOBAL_LOAD, GLOBAL_STORE}) {
        join(block[kind], 32);
        for (auto &p : block[kind])
            if (p.second - p.first < 16) p = {reach(p.first, -1, kind), reach(p.second, 1, kind)};
        join(block[kind], 32);
    }
    for (auto &entry : c.counts->sites) {
        Site &s = entry.second;
        auto &touches = s.touches[number];
        for (size_t warp = 0; warp * WARP < touches.size(); warp++) {
            size_t first = warp * WARP, last = std::min(first + WARP, touches.size()), done[WARP] = {};
            for (;;) {                              // one access by the warp: the lanes that are in the earliest phase
                std::vector<Touch> lanes;
                unsigned phase = UINT_MAX;
                for (size_t t = first; t < last; t++)
                    if (done[t - first] < touches[t].size())
                        phase = std::min(phase, touches[t][done[t - first]].phase);
                if (phase == UINT_MAX) break;
                for (size_t t = first; t < last; t++)
                    if (done[t - first] < touches[t].size() && touches[t][done[t - first]].phase == phase)
                        lanes.push_back(touches[t][done[t - first]++]);
                s.warp_accesses++;
                if (s.kind == SHARED) weigh_shared(s, lanes);
                else weigh_global(s, lanes, block[s.kind]);
            }
        }
        touches.clear();
    }
}
CUDA_ON_CPU_RAW inline void check_launch_end() {
    for (size_t block = 0; checker().launch_sampled && block < SAMPLED_BLOCKS; block++) weigh_block(block);
}

// ---- memory ---------------------------------------------------------------------------------------------------------

struct States { State *first, *last; };
CUDA_ON_CPU_RAW inline States states(const void *p, size_t bytes) {
    State *s = checker().on_arena[(size_t)((const char *)p - checker().arena)].state;
    return {s, s + (bytes + GRANULE - 1) / GRANULE};
}
CUDA_ON_CPU_RAW inline void *check_allocate(size_t bytes, int device) {
    Checker &c = checker();
    if (bytes > c.room || (size_t)(c.top - c.arena) + bytes + 1024 > c.room)
        fail("no room for %zu bytes: the checker has %zu MB for all that a run allocates, and does not use again what "
             "was freed. Allocate once, take a smaller problem, or raise CUDA_ON_CPU_MEGABYTES (to 1024 at most; the "
             "checker itself needs 25 times as much)", bytes, c.room >> 20);
    char *p = c.top + 256;                          // a gap, so that running past an end is seen
    c.top = p + (bytes + 255) / 256 * 256;
    memset(p, 0xff, bytes);
    State state = (State)(ALIVE | (device + 1) << DEVICE_SHIFT);
    if (device == HOST) state |= WRITTEN;           // what the host writes is not seen
    auto [first, last] = states(p, bytes);
    std::fill(first, last, state);
    return p;
}
CUDA_ON_CPU_RAW inline void check_release(void *p, size_t bytes) {
    auto [first, last] = states(p, bytes);
    std::fill(first, last, (State)FREED);
}
CUDA_ON_CPU_RAW inline void check_written(const void *p, size_t bytes) {
    if ((size_t)((const char *)p - checker().arena) >= Checker::ARENA) return;
    for (auto [s, last] = states(p, bytes); s < last; s++) *s |= WRITTEN;
}

// ---- an access ------------------------------------------------------------------------------------------------------

// Are these two unordered? The earlier one is what a cell remembers.
CUDA_ON_CPU_HOT inline bool unordered(const Access &before, const Access &now, bool shared) {
    if (!before.block_run || before.block_run < checker().launch_first) return false;   // an earlier launch
    if (before.atomic && now.atomic) return false;
    if (!(before.part & now.part)) return false;                            // the other byte of the cell
    if (before.block_run != now.block_run) return !shared;                  // another block
    if (before.thread == now.thread || before.barriers != now.barriers) return false;
    return before.thread / WARP != now.thread / WARP || before.warp_syncs == now.warp_syncs;
}

// The note for an address; none if there is nothing to note. Errors that belong to the address are reported here.
CUDA_ON_CPU_HOT inline Note find_note(uintptr_t p, size_t bytes, const char *what, uint32_t pc, bool &shared) {
    Checker &c = checker();
    Machine &m = machine;
    const Note nothing = {nullptr, nullptr};
    if (p - (uintptr_t)m.arguments < m.argument_bytes) return nothing;                  // parameters
    if (p - (uintptr_t)&machine < sizeof machine) return nothing;                       // threadIdx and so on
    size_t offset = p - (uintptr_t)c.arena;
    shared = false;
    if (offset < Checker::ARENA) {
        Note note = c.on_arena[offset];
        State first = *note.state, last = *c.on_arena[offset + bytes - 1].state;
        if (!(first & last & ALIVE)) {
            report(pc, 0, p, "%s of %zu bytes at %p, %s", what, bytes, (void *)p,
                   (first & ALIVE ? last : first) & FREED ? "which was freed" : "OUT OF BOUNDS of every allocation");
            stop(EXIT_CHECK);
        }
        int device = (first >> DEVICE_SHIFT) - 1;
        if (device != HOST && device != m.running_device && !m.peer[m.running_device][device]) {
            report(pc, 0, p, "%s of %zu bytes, memory of device %d, by a kernel on device %d", what, bytes, device,
                   m.running_device);
            stop(EXIT_CHECK);
        }
        return note;
    }
    shared = true;
    offset = p - (uintptr_t)dynamic_shared;
    if (offset < sizeof dynamic_shared) {
        if (offset + bytes <= m.dynamic_bytes) return c.on_dynamic[offset];
        if (fresh(pc, 0))
            report(pc, 0, p, "%s of %zu bytes OUT OF BOUNDS of dynamic shared memory: at byte %zu, the launch asked "
                   "for %zu", what, bytes, offset, m.dynamic_bytes);
        return nothing;
    }
    offset = p - (uintptr_t)&__executable_start;
    if (offset < c.image) {
        if (p <= (uintptr_t)&__data_start) return nothing;                              // constants
        const Symbol *s = variable_at(p);
        if (!s) {
            if (fresh(pc, 0))
                report(pc, 0, p, "%s of %zu bytes OUT OF BOUNDS of every shared array and variable", what, bytes);
            return nothing;
        }
        if (s->name.compare(0, 3, "_ZZ")) return nothing;               // of no function: __constant__, __device__
        if (p + bytes > s->address + s->bytes && fresh(pc, 0))
            report(pc, 0, p, "%s of %zu bytes OUT OF BOUNDS of %s", what, bytes, demangled(s->name).c_str());
        return c.on_image[offset];
    }
    report(pc, 0, p, "ILLEGAL ADDRESS %p: %s of %zu bytes. It is no device memory; a host pointer?", (void *)p, what,
           bytes);
    stop(EXIT_CHECK);
}

CUDA_ON_CPU_RAW inline void sample(uintptr_t p, int bytes, bool write, bool shared, uint32_t pc) {
    SiteKind kind = shared ? SHARED : write ? GLOBAL_STORE : GLOBAL_LOAD;
    Site &s = checker().counts->sites[(uint64_t)kind << 32 | pc];
    s.kind = kind, s.bytes = std::max(s.bytes, bytes);
    auto &touches = s.touches[checker().block_run - checker().launch_first];
    if (touches.empty()) touches.resize((size_t)machine.thread_count);
    std::vector<Touch> &list = touches[(size_t)machine.current->thread];
    unsigned warp_syncs = machine.current->warp_syncs & 0xffff;
    if (list.size() < 64) list.push_back({p, machine.barriers << 16 | warp_syncs, bytes});
}

CUDA_ON_CPU_HOT inline void check_note(Note note, const Access &now, bool write, bool shared, size_t bytes,
                                       uintptr_t p) {
    Checker &c = checker();
    Cell *cell = note.cell;
    const Access &w = cell->writer;
    const char *memory = shared ? "shared" : "global", *what = write ? now.atomic ? "atomic" : "write" : "read";
    bool never = shared ? w.block_run != now.block_run : !(*note.state & WRITTEN);
    if ((!write || now.atomic) && never && fresh(now.pc, 0))
        report(now.pc, 0, p, "UNINITIALISED: %s of %zu bytes of %s memory that nobody has written", what, bytes,
               memory);
    if (!write && *note.state & PENDING && w.block_run == now.block_run && fresh(now.pc, w.pc))
        report(now.pc, w.pc, p, "TOO EARLY: read of what cp.async has not delivered; wait for its group first");
    if (unordered(w, now, shared) && fresh(now.pc, w.pc))
        report(now.pc, w.pc, p, "RACE: %s by %s is not ordered with the %s by %s, %s memory", what, who(now).c_str(),
               w.atomic ? "atomic" : "write", who(w).c_str(), memory);
    if (write) {
        const Access *readers[] = {&cell->reader, &cell->other_reader};
        for (const Access *r : readers)
            if (unordered(*r, now, shared) && fresh(now.pc, r->pc))
                report(now.pc, r->pc, p, "RACE: %s by %s is not ordered with the read by %s, %s memory", what,
                       who(now).c_str(), who(*r).c_str(), memory);
        if (!shared && cell->writer.block_run < c.launch_first) c.counts->stored_once += GRANULE;
        cell->writer = now;
        *note.state |= WRITTEN;
    } else {
        if (!shared && cell->reader.block_run < c.launch_first && cell->writer.block_run < c.launch_first)
            c.counts->loaded_once += GRANULE;
        if (cell->reader.block_run != now.block_run || cell->reader.thread / WARP != now.thread / WARP)
            cell->other_reader = cell->reader;
        cell->reader = now;
    }
}

CUDA_ON_CPU_HOT inline bool is_local(uintptr_t p) {
    return p - (uintptr_t)machine.current->stack < machine.current->stack_bytes;
}
CUDA_ON_CPU_RAW inline void check_memory(uintptr_t p, size_t bytes, bool write, uint32_t pc, bool atomic) {
    Machine &m = machine;
    Checker &c = checker();
    bool shared = false;
    if (!bytes) {
        if (c.sampled) sample(p, 0, write, shared, pc);
        return;
    }
    Note note = find_note(p, bytes, write ? atomic ? "atomic" : "write" : "read", pc, shared);
    if (!note.cell) return;
    if (bytes <= 16 && !(bytes & (bytes - 1)) && p % bytes && fresh(pc, 0))
        report(pc, 0, p, "MISALIGNED: %s of %zu bytes at %p", write ? "write" : "read", bytes, (void *)p);
    if (c.sampled) sample(p, (int)bytes, write, shared, pc);
    if (shared) c.counts->shared += bytes;
    else if (write) c.counts->stored += bytes;
    else c.counts->loaded += bytes;
    c.counts->atomics += atomic;

    Access now;
    now.block_run = c.block_run, now.pc = pc;
    now.barriers = (uint16_t)m.barriers, now.warp_syncs = (uint16_t)m.current->warp_syncs;
    now.thread = (uint16_t)m.current->thread, now.atomic = atomic;
    for (uintptr_t at = p / GRANULE * GRANULE; at < p + bytes; at += GRANULE, note.cell++, note.state++) {
        now.part = (uint8_t)((at >= p ? 1 : 0) | (at + 1 < p + bytes ? 2 : 0));
        check_note(note, now, write, shared, bytes, p);
    }
}
CUDA_ON_CPU_HOT inline void look(const void *pointer, size_t bytes, bool write, const void *return_address,
                                 bool atomic) {
    uintptr_t p = (uintptr_t)pointer;
    if (!machine.current || machine.inside > 0) return;     // the host, or the machine itself
    if (is_local(p)) return;
    machine.inside++;
    check_memory(p, bytes, write, (uint32_t)((const char *)return_address - &__executable_start), atomic);
    machine.inside--;
}
CUDA_ON_CPU_RAW inline void check_access(const void *p, size_t bytes, bool write, const void *pc, bool atomic) {
    look(p, bytes, write, pc, atomic);
}
CUDA_ON_CPU_RAW inline void check_pending(const void *p, size_t bytes, bool pending) {
    bool shared;
    if (is_local((uintptr_t)p)) return;
    State *state = find_note((uintptr_t)p, bytes, "cp.async", 0, shared).state;
    for (State *last = state + bytes / GRANULE; state && state < last; state++)
        *state = (State)(pending ? *state | PENDING : *state & ~PENDING);
}

// ---- the end --------------------------------------------------------------------------------------------------------

CUDA_ON_CPU_RAW inline void print_report() {
    Checker &c = checker();
    std::vector<uint32_t> pcs;
    for (auto &entry : c.kernels)
        for (auto &site : entry.second.sites) pcs.push_back((uint32_t)site.first);
    std::map<uint32_t, std::string> names = source_lines(pcs);
    fprintf(stderr, "\n%-28s %7s %7s %7s %10s %10s %10s %10s %8s %6s\n", "kernel", "launch", "blocks", "threads",
            "loaded B", "stored B", "unique ld", "unique st", "sectors", "banks");
    for (auto &entry : c.kernels) {
        Counts &k = entry.second;
        double got[2] = {0, 0}, ideal[2] = {0, 0};
        for (auto &site : k.sites)
            got[site.second.kind == SHARED] += (double)site.second.got,
            ideal[site.second.kind == SHARED] += (double)site.second.ideal;
        fprintf(stderr, "%-28.28s %7lu %7lu %7lu %10lu %10lu %10lu %10lu %8.2f %6.2f\n", entry.first.c_str(),
                k.launches, k.blocks, k.threads, k.loaded, k.stored, k.loaded_once, k.stored_once,
                ideal[0] > 0 ? got[0] / ideal[0] : 1.0, ideal[1] > 0 ? got[1] / ideal[1] : 1.0);
        std::map<std::pair<std::string, int>, Site> lines;      // a loop that was unrolled has several sites in a line
        for (auto &site : k.sites) {
            Site &line = lines[{names[(uint32_t)site.first], (int)site.second.kind}];
            line.kind = site.second.kind, line.bytes = std::max(line.bytes, site.second.bytes);
            line.warp_accesses += site.second.warp_accesses;
            line.got += site.second.got, line.ideal += site.second.ideal;
        }
        for (auto &line : lines) {
            const Site &s = line.second;
            static const char *kinds[] = {"global load", "global store", "shared"};
            if (10 * s.got <= 11 * s.ideal) continue;               // a tenth is not worth a line
            fprintf(stderr, "    %-24s %-12s %2d bytes per lane: %.1f %s per warp access, ideal %.1f\n",
                    line.first.first.c_str(), kinds[s.kind], s.bytes, (double)s.got / (double)s.warp_accesses,
                    s.kind == SHARED ? "passes" : "sectors", (double)s.ideal / (double)s.warp_accesses);
        }
    }
    fprintf(stderr, "sectors and banks: times the ideal, 1.00 is best\n");
}
CUDA_ON_CPU_RAW inline int check_finish() {
    if (checker().reports) print_report();
    return checker().errors;
}
} // namespace cuda_on_cpu

// What -fsanitize=thread calls. Weak, so that several files of a program may include this.
extern "C" {
#ifdef __clang__            // its no_sanitize("thread") leaves atomics instrumented: they would call themselves here
#define CUDA_ON_CPU_HOOK CUDA_ON_CPU_RAW __attribute__((weak, disable_sanitizer_instrumentation))
#else
#define CUDA_ON_CPU_HOOK CUDA_ON_CPU_RAW __attribute__((weak))
#endif
#define CUDA_ON_CPU_LOOK(bytes, write) cuda_on_cpu::look(p, bytes, write, __builtin_return_address(0), false)
#define CUDA_ON_CPU_HOOKS(n) \
    CUDA_ON_CPU_HOOK void __tsan_read##n(void *p) { CUDA_ON_CPU_LOOK(n, false); } \
    CUDA_ON_CPU_HOOK void __tsan_write##n(void *p) { CUDA_ON_CPU_LOOK(n, true); } \
    CUDA_ON_CPU_HOOK void __tsan_unaligned_read##n(void *p) { CUDA_ON_CPU_LOOK(n, false); } \
    CUDA_ON_CPU_HOOK void __tsan_unaligned_write##n(void *p) { CUDA_ON_CPU_LOOK(n, true); } \
    CUDA_ON_CPU_HOOK void __tsan_volatile_read##n(void *p) { CUDA_ON_CPU_LOOK(n, false); } \
    CUDA_ON_CPU_HOOK void __tsan_volatile_write##n(void *p) { CUDA_ON_CPU_LOOK(n, true); } \
    CUDA_ON_CPU_HOOK void __tsan_read_write##n(void *p) { CUDA_ON_CPU_LOOK(n, false); CUDA_ON_CPU_LOOK(n, true); }
CUDA_ON_CPU_HOOKS(1)
CUDA_ON_CPU_HOOKS(2)
CUDA_ON_CPU_HOOKS(4)
CUDA_ON_CPU_HOOKS(8)
CUDA_ON_CPU_HOOKS(16)
#undef CUDA_ON_CPU_HOOKS
CUDA_ON_CPU_HOOK void __tsan_read_range(void *p, size_t bytes) { CUDA_ON_CPU_LOOK(bytes, false); }
CUDA_ON_CPU_HOOK void __tsan_write_range(void *p, size_t bytes) { CUDA_ON_CPU_LOOK(bytes, true); }
// The host's own atomics, which the standard library uses. Kernels have atomicAdd and its kin.
#define CUDA_ON_CPU_HOOKS(bits, T) \
    CUDA_ON_CPU_HOOK T __tsan_atomic##bits##_load(const volatile void *p, int) { \
        return __atomic_load_n((const volatile T *)p, __ATOMIC_SEQ_CST); \
    } \
    CUDA_ON_CPU_HOOK void __tsan_atomic##bits##_store(volatile void *p, T v, int) { \
        __atomic_store_n((volatile T *)p, v, __ATOMIC_SEQ_CST); \
    } \
    CUDA_ON_CPU_HOOK T __tsan_atomic##bits##_exchange(volatile void *p, T v, int) { \
        return __atomic_exchange_n((volatile T *)p, v, __ATOMIC_SEQ_CST); \
    } \
    CUDA_ON_CPU_HOOK T __tsan_atomic##bits##_fetch_add(volatile void *p, T v, int) { \
        return __atomic_fetch_add((volatile T *)p, v, __ATOMIC_SEQ_CST); \
    } \
    CUDA_ON_CPU_HOOK T __tsan_atomic##bits##_fetch_sub(volatile void *p, T v, int) { \
        return __atomic_fetch_sub((volatile T *)p, v, __ATOMIC_SEQ_CST); \
    } \
    CUDA_ON_CPU_HOOK T __tsan_atomic##bits##_fetch_and(volatile void *p, T v, int) { \
        return __atomic_fetch_and((volatile T *)p, v, __ATOMIC_SEQ_CST); \
    } \
    CUDA_ON_CPU_HOOK T __tsan_atomic##bits##_fetch_or(volatile void *p, T v, int) { \
        return __atomic_fetch_or((volatile T *)p, v, __ATOMIC_SEQ_CST); \
    } \
    CUDA_ON_CPU_HOOK T __tsan_atomic##bits##_fetch_xor(volatile void *p, T v, int) { \
        return __atomic_fetch_xor((volatile T *)p, v, __ATOMIC_SEQ_CST); \
    } \
    CUDA_ON_CPU_HOOK bool __tsan_atomic##bits##_compare_exchange_strong(volatile void *p, void *old, T v, int, int) { \
        return __atomic_compare_exchange_n((volatile T *)p, (T *)old, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
    } \
    CUDA_ON_CPU_HOOK bool __tsan_atomic##bits##_compare_exchange_weak(volatile void *p, void *old, T v, int, int) { \
        return __atomic_compare_exchange_n((volatile T *)p, (T *)old, v, 1, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
    } \
    CUDA_ON_CPU_HOOK T __tsan_atomic##bits##_compare_exchange_val(volatile void *p, T old, T v, int, int) { \
        __atomic_compare_exchange_n((volatile T *)p, &old, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
        return old; \
    }
CUDA_ON_CPU_HOOKS(8, unsigned char)
CUDA_ON_CPU_HOOKS(16, unsigned short)
CUDA_ON_CPU_HOOKS(32, unsigned)
CUDA_ON_CPU_HOOKS(64, unsigned long)
CUDA_ON_CPU_HOOK void __tsan_init() {}
CUDA_ON_CPU_HOOK void __tsan_func_entry(void *) {}
CUDA_ON_CPU_HOOK void __tsan_func_exit(void *) {}
CUDA_ON_CPU_HOOK void __tsan_vptr_update(void *, void *) {}
CUDA_ON_CPU_HOOK void __tsan_vptr_read(void *) {}
// Later versions of clang call these in place of memcpy and its kin.
CUDA_ON_CPU_HOOK void *__tsan_memcpy(void *p, const void *from, size_t n) {
    cuda_on_cpu::check_access(from, n, false, __builtin_return_address(0));
    CUDA_ON_CPU_LOOK(n, true);
    return memcpy(p, from, n);
}
CUDA_ON_CPU_HOOK void *__tsan_memmove(void *p, const void *from, size_t n) {
    cuda_on_cpu::check_access(from, n, false, __builtin_return_address(0));
    CUDA_ON_CPU_LOOK(n, true);
    return memmove(p, from, n);
}
CUDA_ON_CPU_HOOK void *__tsan_memset(void *p, int value, size_t n) {
    CUDA_ON_CPU_LOOK(n, true);
    return memset(p, value, n);
}
#undef CUDA_ON_CPU_HOOKS
#undef CUDA_ON_CPU_LOOK
#undef CUDA_ON_CPU_HOOK
}
#endif
