// What generated CUDA code needs to run on a CPU: force-included before a kernel's source by the tests.
// Threads of a block are fibers (scheduler.cpp). Barriers and warp exchanges are rendezvous, so a missing
// barrier gives wrong numbers; shared memory starts as NaN; asynchronous copies arrive when waited for.
#pragma once
#include <math.h>
#include <string.h>
#define KG_CPU 1
#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define KG_DEVICE static inline __attribute__((unused))
#define KG_INF __builtin_inff()
#define KG_NAN __builtin_nanf("")
#define KG_SHARED char *const kg_shared = kg_dynamic
struct kg_uint3 { unsigned x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
extern "C" {
extern kg_uint3 *kg_thread, kg_block, kg_threads, kg_blocks;
extern char kg_dynamic[];
void kg_barrier();
void kg_exchange(const void *mine, void *theirs, int size, int lane);
void kg_mma_16808(float *d, const unsigned *a, const unsigned *b, const float *c);
void kg_mma_16816(float *d, const unsigned *a, const unsigned *b, const float *c);
void kg_copy16(void *to, const void *from);
void kg_copy_commit();
void kg_copy_wait_for(int pending);
int kg_launch(const unsigned *grid, const unsigned *block, unsigned shared, void (*body)(const void *), const void *args);
}
#define threadIdx (*kg_thread)
#define blockIdx kg_block
#define blockDim kg_threads
#define gridDim kg_blocks
#define __syncthreads kg_barrier
template <int N> void kg_copy_wait() { kg_copy_wait_for(N); }
static inline int kg_lane() { return (kg_thread->x + kg_threads.x * (kg_thread->y + kg_threads.y * kg_thread->z)) % 32; }
template <class T> T kg_get(T x, int lane) { T r; kg_exchange(&x, &r, sizeof x, lane & 31); return r; }
template <class T> T __shfl_xor_sync(unsigned, T x, int mask) { return kg_get(x, kg_lane() ^ mask); }
template <class T> T __shfl_sync(unsigned, T x, int lane) { return kg_get(x, lane); }
static inline void __syncwarp() { kg_get(0, kg_lane()); }
template <class A, class B> auto min(A a, B b) -> decltype(a + b) { return a < b ? a : b; }
template <class A, class B> auto max(A a, B b) -> decltype(a + b) { return a > b ? a : b; }
static inline float __int_as_float(int i) { float f; memcpy(&f, &i, 4); return f; }
static inline int __float_as_int(float f) { int i; memcpy(&i, &f, 4); return i; }
static inline double __longlong_as_double(long long i) { double f; memcpy(&f, &i, 8); return f; }
static inline long long __double_as_longlong(double f) { long long i; memcpy(&i, &f, 8); return i; }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline uint4 make_uint4(unsigned a, unsigned b, unsigned c, unsigned d) { return {a, b, c, d}; }
static inline uint2 make_uint2(unsigned a, unsigned b) { return {a, b}; }
static inline void kg_mma(float *d, uint4 a, uint2 b) { kg_mma_16816(d, &a.x, &b.x, d); }
static inline void kg_mma_tf32(float *d, uint4 a, uint2 b) { kg_mma_16808(d, &a.x, &b.x, d); }
static inline float kg_half(float x) { return (float)(_Float16)x; }
static inline unsigned kg_halves(float low, float high) {
  _Float16 h[2] = {(_Float16)low, (_Float16)high}; unsigned r; memcpy(&r, h, 4); return r;
}
static inline double kg_from_lane(double mine, int lane) { return kg_get(mine, lane); }
static inline int kg_low_word(double x) { return (int)__double_as_longlong(x); }
static inline double kg_raise_exponent(double x, int n) {
  return __longlong_as_double(__double_as_longlong(x) + ((long long)((unsigned long long)n << 52)));
}
static inline void kg_raise(unsigned *word, unsigned x) { if (x > *word) *word = x; }
static inline float kg_exp2(float x) { return exp2f(x); }
static inline float kg_sqrt(float x) { return sqrtf(x); }
static inline float kg_rcp(float x) { return 1.0f / x; }
static inline float kg_rsqrt_raw(float x) { return 1.0f / sqrtf(x); }
