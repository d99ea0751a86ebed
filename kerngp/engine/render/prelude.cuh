// What generated CUDA code calls. Under KG_CPU a test harness supplies the same names in plain C++.
#ifndef KG_CPU
#define KG_DEVICE __device__ __forceinline__
#define KG_INF __int_as_float(0x7f800000)
#define KG_NAN __int_as_float(0x7fffffff)
#define KG_SHARED extern __shared__ __align__(16) char kg_shared[]
KG_DEVICE float kg_exp2(float x) { float r; asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(r) : "f"(x)); return r; }
KG_DEVICE float kg_sqrt(float x) { float r; asm("sqrt.approx.f32 %0,%1;" : "=f"(r) : "f"(x)); return r; }
KG_DEVICE float kg_rcp(float x) { float r; asm("rcp.approx.f32 %0,%1;" : "=f"(r) : "f"(x)); return r; }
KG_DEVICE float kg_rsqrt_raw(float x) { float r; asm("rsqrt.approx.f32 %0,%1;" : "=f"(r) : "f"(x)); return r; }
// 16 bytes from global to shared memory, visible after kg_copy_wait and a barrier
KG_DEVICE void kg_copy16(void *to, const void *from) {
  unsigned at = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(at), "l"(from) : "memory");
}
KG_DEVICE void kg_copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> KG_DEVICE void kg_copy_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }
// d += a b: 16 x 16 by 16 x 8, float16 into float32, spread over a warp as the PTX manual says
KG_DEVICE void kg_mma(float *d, uint4 a, uint2 b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
}
// the same for tf32: 16 x 8 by 8 x 8; of the words only sign, exponent and ten bits count
KG_DEVICE void kg_mma_tf32(float *d, uint4 a, uint2 b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
}
KG_DEVICE unsigned kg_halves(float low, float high) {
  unsigned r; asm("cvt.rn.f16x2.f32 %0,%1,%2;" : "=r"(r) : "f"(high), "f"(low)); return r;
}
KG_DEVICE float kg_half(float x) {  // rounded to float16
  float r; asm("{.reg .f16 h; cvt.rn.f16.f32 h,%1; cvt.f32.f16 %0,h;}" : "=f"(r) : "f"(x)); return r;
}
KG_DEVICE double kg_from_lane(double mine, int lane) { return __shfl_sync(0xffffffffu, mine, lane); }
KG_DEVICE int kg_low_word(double x) { return __double2loint(x); }
KG_DEVICE double kg_raise_exponent(double x, int n) {
  return __hiloint2double(__double2hiint(x) + (n << 20), __double2loint(x));
}
KG_DEVICE void kg_raise(unsigned *word, unsigned x) { if (x > *(volatile unsigned *)word) atomicMax(word, x); }
#endif
// x in tf32, cut off, and what that leaves, rounded: tensor cores ignore the bits below
KG_DEVICE unsigned kg_tf32(float x) { return (unsigned)__float_as_int(x) & 0xffffe000u; }
KG_DEVICE unsigned kg_tf32_rest(float x, unsigned high) {
  return (unsigned)__float_as_int(x - __int_as_float((int)high)) + 0x1000u;
}
// x in float16: the n-th of the numbers that add up to it
KG_DEVICE float kg_part(float x, int n) {
  for (; n > 0; n--) x -= kg_half(x);
  return x;
}
// a power of two that brings vectors of the largest squared norm (its bits are given) to a length of 5 to 12
KG_DEVICE float kg_unit(unsigned bits) {
  int e = (int)(bits >> 23) - 127;
  return bits == 0 ? 1.0f : __int_as_float((130 - ((e + 1) >> 1)) << 23);
}
// 2^x by multiply-adds alone, for x of modest size; the fit of the CPU's lowering rules
KG_DEVICE float kg_exp2_fma(float x) {
  x = fmaxf(x, -126.0f);
  float t = x + 12582912.0f, f = x - (t - 12582912.0f), p = 0.00015239657659549266f;
  p = fmaf(p, f, 0.0013391353422775865f);
  p = fmaf(p, f, 0.00961883831769228f);
  p = fmaf(p, f, 0.055503588169813156f);
  p = fmaf(p, f, 0.24022644758224487f);
  p = fmaf(p, f, 0.6931471824645996f);
  p = fmaf(p, f, 1.0f);
  return __int_as_float(__float_as_int(p) + (__float_as_int(t) << 23));
}
// 2^((scale + rest) x / 32) for scale x <= 0, and 0 where x is beyond `least`. `power` is 2^(k / 32) in lane k of
// the warp, all of whose lanes come here. The polynomial is (2^(r / 32) - 1) / r for |r| <= 1/2, to 1.4e-16.
KG_DEVICE double kg_exp2_lanes(double x, double scale, double rest, double least, double power) {
  double turns = fma(x, scale, 6755399441055744.0), r = fma(x, scale, 6755399441055744.0 - turns);
  r = rest == 0.0 ? r : fma(x, rest, r);
  int n = kg_low_word(turns);
  double p = 3.9737238568525983e-11;
  p = fma(p, r, 9.172607532092245e-09);
  p = fma(p, r, 1.6938509724285119e-06);
  p = fma(p, r, 0.0002345961981994449);
  p = fma(p, r, 0.02166084939249829);
  double t = kg_from_lane(power, n & 31), y = kg_raise_exponent(fma(t, r * p, t), n >> 5);
  return (scale < 0.0 ? x > least : x < least) ? 0.0 : y;
}
KG_DEVICE double kg_sqrt(double x) { return sqrt(x); }
KG_DEVICE double kg_rcp(double x) { return 1.0 / x; }
KG_DEVICE double kg_rsqrt_raw(double x) { return rsqrt(x); }
template <class T> KG_DEVICE T kg_rsqrt(T x) { return x == T(0) ? T(0) : kg_rsqrt_raw(x); }
KG_DEVICE float kg_fma(float a, float b, float c) { return fmaf(a, b, c); }
KG_DEVICE double kg_fma(double a, double b, double c) { return fma(a, b, c); }
KG_DEVICE float kg_least(float a, float b) { return fminf(a, b); }  // of a number and a NaN: the number
KG_DEVICE double kg_least(double a, double b) { return fmin(a, b); }
KG_DEVICE float kg_most(float a, float b) { return fmaxf(a, b); }
KG_DEVICE double kg_most(double a, double b) { return fmax(a, b); }
// the device's own functions, by one name for both types
#define KG_UNARY(name, single, both) \
  KG_DEVICE float kg_##name(float a) { return single(a); } \
  KG_DEVICE double kg_##name(double a) { return both(a); }
#define KG_BINARY(name, single, both) \
  KG_DEVICE float kg_##name(float a, float b) { return single(a, b); } \
  KG_DEVICE double kg_##name(double a, double b) { return both(a, b); }
KG_UNARY(abs, fabsf, fabs)
KG_UNARY(floor, floorf, floor)
KG_UNARY(rint, rintf, rint)
KG_UNARY(exp, expf, exp)
KG_UNARY(log, logf, log)
KG_UNARY(sin, sinf, sin)
KG_UNARY(cos, cosf, cos)
KG_UNARY(expm1, expm1f, expm1)
KG_UNARY(log1p, log1pf, log1p)
KG_UNARY(sinh, sinhf, sinh)
KG_UNARY(cosh, coshf, cosh)
KG_UNARY(tanh, tanhf, tanh)
KG_UNARY(asin, asinf, asin)
KG_UNARY(acos, acosf, acos)
KG_UNARY(atan, atanf, atan)
KG_UNARY(erf, erff, erf)
KG_UNARY(erfc, erfcf, erfc)
KG_UNARY(lgamma, lgammaf, lgamma)
KG_BINARY(pow, powf, pow)
KG_BINARY(atan2, atan2f, atan2)
KG_BINARY(copysign, copysignf, copysign)
// float32: (high, low) += x without losing the digits below high (Knuth's two-sum); float64: plainly
KG_DEVICE void kg_add(float &high, float &low, float x) {
  float s = high + x, b = s - high;
  low += (high - (s - b)) + (x - b);
  high = s;
}
// their sum; where it is not finite, low is of no use
KG_DEVICE double kg_sum(float high, float low) { return high - high == 0.0f ? (double)high + (double)low : (double)high; }
KG_DEVICE void kg_add(double &high, double &low, double x) { high += x; }
// Insert into an ascending list of k entries, `step` apart; equal entries stay before. Returns the k-th value.
template <class T> KG_DEVICE T kg_insert(T *value, long long *column, int k, int step, T x, long long j) {
  int at = k - 1;
  for (; at > 0 && value[(long long)(at - 1) * step] > x; at--) {
    value[(long long)at * step] = value[(long long)(at - 1) * step];
    column[(long long)at * step] = column[(long long)(at - 1) * step];
  }
  value[(long long)at * step] = x;
  column[(long long)at * step] = j;
  return value[(long long)(k - 1) * step];
}
// (m, s) joined with (m2, s2): maxima and sums of exp(f - maximum)
template <class T> KG_DEVICE void kg_join(T &m, double &s, T m2, double s2) {
  T n = kg_most(m, m2), shift = kg_most(n, sizeof(T) == 4 ? T(-1e38) : T(-1e300));
  s = s * exp((double)m - (double)shift) + s2 * exp((double)m2 - (double)shift);
  m = n;
}
template <class T> KG_DEVICE T kg_lse(T m, double s) {
  T shift = kg_most(m, sizeof(T) == 4 ? T(-1e38) : T(-1e300));
  return m == T(KG_INF) ? m : s == 0.0 ? -T(KG_INF) : (T)((double)shift + log(s));
}
// All threads of the block copy `count` pieces of 16 bytes.
KG_DEVICE void kg_stage(void *to, const void *from, int count) {
  for (int k = threadIdx.x; k < count; k += blockDim.x) kg_copy16((char *)to + 16 * k, (const char *)from + 16 * k);
}
