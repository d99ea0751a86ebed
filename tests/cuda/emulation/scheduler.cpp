// Runs CUDA thread blocks on one CPU thread: a fiber per CUDA thread, blocks one after another.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

struct Uint3 { unsigned x, y, z; };
extern "C" {
Uint3 *kg_thread, kg_block, kg_threads, kg_blocks;
char kg_dynamic[232448] __attribute__((aligned(128)));
unsigned kg_seed = 1;          // 1: threads resume in order; else in a random order that follows from it
unsigned kg_eager = 0;         // 1: asynchronous copies arrive at once; 0: when they are waited for
char kg_error[256];            // what went wrong in the last launch
}

enum State { READY, AT_BARRIER, AT_EXCHANGE, DONE };
struct Copy { void *to; const void *from; };
struct Fiber {
#if defined(__x86_64__)
  void *sp;
#else
  ucontext_t context;
#endif
  char *stack; Uint3 id; unsigned linear; State state; std::vector<Copy> copies; std::vector<size_t> groups;
};

static const size_t STACK = 1 << 19;
static std::vector<Fiber> fibers;
static Fiber *current;
static void (*kernel_body)(const void *);
static const void *kernel_args;
static char slots[32][32][128];   // [warp][lane]: what is exchanged

#if defined(__x86_64__)
static void *scheduler_sp;
extern "C" void kg_switch(void **save, void *load);
asm(".text\n.globl kg_switch\n.type kg_switch,@function\nkg_switch:\n"
    " push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n mov %rsp,(%rdi)\n mov %rsi,%rsp\n"
    " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n");
static void to_scheduler() { kg_switch(&current->sp, scheduler_sp); }
static void resume(Fiber &f) { current = &f; kg_thread = &f.id; kg_switch(&scheduler_sp, f.sp); }
#else
static ucontext_t scheduler_context;
static void to_scheduler() { swapcontext(&current->context, &scheduler_context); }
static void resume(Fiber &f) { current = &f; kg_thread = &f.id; swapcontext(&scheduler_context, &f.context); }
#endif

static void wait_as(State s) { current->state = s; to_scheduler(); }
static void entry() { kernel_body(kernel_args); current->state = DONE; to_scheduler(); abort(); }

static void prepare(Fiber &f, unsigned k) {
  if (!f.stack) f.stack = (char *)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  f.linear = k; f.state = READY; f.copies.clear(); f.groups.clear();
  f.id = {k % kg_threads.x, k / kg_threads.x % kg_threads.y, k / kg_threads.x / kg_threads.y};
#if defined(__x86_64__)
  void **s = (void **)(f.stack + STACK) - 2; *s = (void *)entry; f.sp = s - 6;
#else
  getcontext(&f.context); f.context.uc_stack = {f.stack, 0, STACK}; f.context.uc_link = nullptr; makecontext(&f.context, entry, 0);
#endif
}

static int fail(const char *what) {
  snprintf(kg_error, sizeof kg_error, "%s (block %u)", what, kg_block.x);
  return 719;   // CUDA_ERROR_LAUNCH_FAILED
}

static int run_block(unsigned n, std::vector<unsigned> &order) {
  memset(kg_dynamic, 0xff, sizeof kg_dynamic);   // all ones: NaN
  for (unsigned k = 0; k < n; k++) prepare(fibers[k], k);
  for (;;) {
    for (unsigned k = n - 1; k > 0 && kg_seed > 1; k--) {
      kg_seed = kg_seed * 1664525u + 1013904223u;
      std::swap(order[k], order[(kg_seed >> 8) % (k + 1)]);
    }
    bool progress = false;
    for (unsigned k : order) if (fibers[k].state == READY) { progress = true; resume(fibers[k]); }
    unsigned done = 0, waiting = 0;
    for (unsigned k = 0; k < n; k++) { done += fibers[k].state == DONE; waiting += fibers[k].state == AT_BARRIER; }
    if (done == n) return 0;
    if (waiting && waiting + done == n) {
      if (done) return fail("a barrier was reached by a part of the block only");
      for (unsigned k = 0; k < n; k++) fibers[k].state = READY;
      continue;
    }
    for (unsigned w = 0; w < n; w += 32) {   // a warp goes on when all its lanes exchange
      unsigned end = w + 32 < n ? w + 32 : n, at = 0;
      for (unsigned k = w; k < end; k++) at += fibers[k].state == AT_EXCHANGE;
      if (at == end - w) { progress = true; for (unsigned k = w; k < end; k++) fibers[k].state = READY; }
    }
    if (!progress) return fail("threads wait for each other at different places");
  }
}

extern "C" {
void kg_barrier() { wait_as(AT_BARRIER); }
void kg_exchange(const void *mine, void *theirs, int size, int lane) {
  unsigned w = current->linear / 32, l = current->linear % 32;
  memcpy(slots[w][l], mine, size); wait_as(AT_EXCHANGE);
  memcpy(theirs, slots[w][lane], size); wait_as(AT_EXCHANGE);
}
// mma.m16n8k16, f16 by f16 into f32: the fragment layouts of the PTX manual
void kg_mma_16816(float *d, const unsigned *a, const unsigned *b, const float *c) {
  unsigned w = current->linear / 32, l = current->linear % 32;
  memcpy(slots[w][l], a, 16); memcpy(slots[w][l] + 16, b, 8); wait_as(AT_EXCHANGE);
  auto half = [](const char *p, int i) { _Float16 h; memcpy(&h, p + 2 * i, 2); return (double)h; };
  float r[4];
  for (int e = 0; e < 4; e++) {
    int row = (l >> 2) + 8 * (e >> 1), column = 2 * (l & 3) + (e & 1);
    double s = 0;
    for (int k = 0; k < 16; k++) {
      int la = (row & 7) * 4 + k % 8 / 2, ia = ((k >> 3) * 2 + (row >> 3)) * 2 + (k & 1);
      int lb = column * 4 + k % 8 / 2, ib = (k >> 3) * 2 + (k & 1);
      s += half(slots[w][la], ia) * half(slots[w][lb] + 16, ib);
    }
    r[e] = (float)(s + c[e]);
  }
  wait_as(AT_EXCHANGE); memcpy(d, r, 16);
}
// mma.m16n8k8, tf32 by tf32 into f32; the machine ignores the lower bits of the operands
void kg_mma_16808(float *d, const unsigned *a, const unsigned *b, const float *c) {
  unsigned w = current->linear / 32, l = current->linear % 32;
  memcpy(slots[w][l], a, 16); memcpy(slots[w][l] + 16, b, 8); wait_as(AT_EXCHANGE);
  auto word = [](const char *p, int i) { unsigned u; float f; memcpy(&u, p + 4 * i, 4); u &= ~0x1fffu; memcpy(&f, &u, 4); return (double)f; };
  float r[4];
  for (int e = 0; e < 4; e++) {
    int row = (l >> 2) + 8 * (e >> 1), column = 2 * (l & 3) + (e & 1);
    double s = 0;
    for (int k = 0; k < 8; k++)
      s += word(slots[w][(row & 7) * 4 + k % 4], (row >> 3) + 2 * (k >> 2)) * word(slots[w][column * 4 + k % 4] + 16, k >> 2);
    r[e] = (float)(s + c[e]);
  }
  wait_as(AT_EXCHANGE); memcpy(d, r, 16);
}
void kg_copy16(void *to, const void *from) {
  if (kg_eager) memcpy(to, from, 16); else current->copies.push_back({to, from});
}
void kg_copy_commit() { current->groups.push_back(current->copies.size()); }
void kg_copy_wait_for(int pending) {   // all but the last `pending` groups arrive
  auto &f = *current;
  if ((int)f.groups.size() <= pending) return;
  size_t end = f.groups[f.groups.size() - 1 - pending];
  for (size_t k = 0; k < end; k++) memcpy(f.copies[k].to, f.copies[k].from, 16);
  f.copies.erase(f.copies.begin(), f.copies.begin() + end);
  f.groups.erase(f.groups.begin(), f.groups.end() - pending);
  for (auto &g : f.groups) g -= end;
}
int kg_launch(const unsigned *grid, const unsigned *block, unsigned shared, void (*body)(const void *), const void *args) {
  static std::mutex lock;
  std::lock_guard<std::mutex> hold(lock);
  kg_error[0] = 0;
  if (shared > sizeof kg_dynamic) return fail("too much shared memory");
  unsigned n = block[0] * block[1] * block[2];
  kg_threads = {block[0], block[1], block[2]}; kg_blocks = {grid[0], grid[1], grid[2]};
  kernel_body = body; kernel_args = args;
  fibers.resize(n > fibers.size() ? n : fibers.size());
  std::vector<unsigned> order(n);
  for (unsigned k = 0; k < n; k++) order[k] = k;
  for (unsigned z = 0; z < grid[2]; z++) for (unsigned y = 0; y < grid[1]; y++) for (unsigned x = 0; x < grid[0]; x++) {
    kg_block = {x, y, z};
    if (int error = run_block(n, order)) return error;
  }
  return 0;
}
}
