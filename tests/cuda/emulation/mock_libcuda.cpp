// A driver with one device whose "machine code" is a shared object: a kernel compiled for the CPU with
// device.h. Device pointers are host pointers. Enough of the API for PyCUDA: contexts, modules, launches,
// streams, events. Never to be found by a program that could use a real driver.
#include <cuda.h>
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>
#undef cuCtxPushCurrent
#undef cuCtxPopCurrent
#undef cuStreamDestroy
#undef cuEventDestroy
#undef cuDevicePrimaryCtxRelease
#undef cuDeviceTotalMem
#define API extern "C" __attribute__((visibility("default"))) CUresult
typedef int (*Entry)(const unsigned *, const unsigned *, unsigned, const void *);
static const CUcontext PRIMARY = (CUcontext)0x1000;
static thread_local std::vector<CUcontext> pushed;
extern "C" __attribute__((visibility("default"))) int kg_mock_launches, kg_mock_side_launches, kg_mock_modules;
int kg_mock_launches, kg_mock_side_launches, kg_mock_modules;   // read by tests

API cuInit(unsigned) { return CUDA_SUCCESS; }
API cuDriverGetVersion(int *v) { *v = 13000; return CUDA_SUCCESS; }
API cuDeviceGetCount(int *n) { *n = 1; return CUDA_SUCCESS; }
API cuDeviceGet(CUdevice *d, int i) { if (i) return CUDA_ERROR_INVALID_DEVICE; *d = 0; return CUDA_SUCCESS; }
API cuDeviceGetName(char *s, int n, CUdevice) { snprintf(s, n, "mock device"); return CUDA_SUCCESS; }
API cuDeviceTotalMem_v2(size_t *b, CUdevice) { *b = 1ull << 33; return CUDA_SUCCESS; }
API cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice) {
  *v = a == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 9 : a == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT ? 4 :
       a == CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : a == CU_DEVICE_ATTRIBUTE_WARP_SIZE ? 32 : 0;
  return CUDA_SUCCESS;
}
API cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice) { *c = PRIMARY; return CUDA_SUCCESS; }
API cuDevicePrimaryCtxRelease_v2(CUdevice) { return CUDA_SUCCESS; }
API cuCtxPushCurrent_v2(CUcontext c) { pushed.push_back(c); return CUDA_SUCCESS; }
API cuCtxPopCurrent_v2(CUcontext *c) {
  if (pushed.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  if (c) *c = pushed.back();
  pushed.pop_back(); return CUDA_SUCCESS;
}
API cuCtxGetCurrent(CUcontext *c) { *c = pushed.empty() ? nullptr : pushed.back(); return CUDA_SUCCESS; }
API cuCtxGetDevice(CUdevice *d) { if (pushed.empty()) return CUDA_ERROR_INVALID_CONTEXT; *d = 0; return CUDA_SUCCESS; }
API cuCtxSynchronize() { return CUDA_SUCCESS; }
API cuGetErrorString(CUresult r, const char **s) {
  static char text[320]; auto *e = (const char *)dlsym(RTLD_DEFAULT, "kg_error");
  snprintf(text, sizeof text, "mock error %d%s%s", (int)r, e && *e ? ": " : "", e && *e ? e : ""); *s = text; return CUDA_SUCCESS;
}
API cuGetErrorName(CUresult r, const char **s) { return cuGetErrorString(r, s); }
API cuModuleLoadDataEx(CUmodule *m, const void *p, unsigned, CUjit_option *, void **) {
  if (pushed.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  auto *e = (const Elf64_Ehdr *)p;
  if (memcmp(e->e_ident, ELFMAG, 4) || (e->e_machine != EM_X86_64 && e->e_machine != EM_AARCH64)) return CUDA_ERROR_INVALID_IMAGE;
  size_t n = e->e_shoff + (size_t)e->e_shnum * e->e_shentsize; char f[] = "/tmp/kgmockXXXXXX"; int fd = mkstemp(f);
  if (fd < 0 || write(fd, p, n) != (ssize_t)n) return CUDA_ERROR_OPERATING_SYSTEM;
  close(fd); void *h = dlopen(f, RTLD_NOW | RTLD_LOCAL); unlink(f);
  if (!h) { fprintf(stderr, "mock_libcuda: %s\n", dlerror()); return CUDA_ERROR_INVALID_IMAGE; }
  kg_mock_modules++; *m = (CUmodule)h; return CUDA_SUCCESS;
}
API cuModuleLoadData(CUmodule *m, const void *p) { return cuModuleLoadDataEx(m, p, 0, 0, 0); }
API cuModuleUnload(CUmodule m) { dlclose((void *)m); return CUDA_SUCCESS; }
API cuModuleGetFunction(CUfunction *f, CUmodule m, const char *n) {
  void *s = dlsym((void *)m, (std::string("kg_entry_") + n).c_str());
  if (!s) return CUDA_ERROR_NOT_FOUND;
  *f = (CUfunction)s; return CUDA_SUCCESS;
}
API cuFuncGetAttribute(int *v, CUfunction_attribute, CUfunction) { *v = 0; return CUDA_SUCCESS; }
API cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }
API cuFuncSetBlockShape(CUfunction, int, int, int) { return CUDA_SUCCESS; }
API cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned smem, CUstream s, void **, void **extra) {
  if ((size_t)bx * by * bz > 1024 || !gx || !gy || !gz || gy > 65535 || gz > 65535 || smem > 49152) return CUDA_ERROR_INVALID_VALUE;
  const void *args = nullptr;
  for (void **e = extra; e && *e != CU_LAUNCH_PARAM_END; e += 2) if (*e == CU_LAUNCH_PARAM_BUFFER_POINTER) args = e[1];
  if (!args) return CUDA_ERROR_NOT_SUPPORTED;
  kg_mock_launches++; kg_mock_side_launches += s != nullptr;
  unsigned g[3] = {gx, gy, gz}, b[3] = {bx, by, bz};
  return (CUresult)((Entry)f)(g, b, smem, args);
}
API cuStreamCreate(CUstream *s, unsigned) { if (pushed.empty()) return CUDA_ERROR_INVALID_CONTEXT; *s = (CUstream)malloc(8); return CUDA_SUCCESS; }
API cuStreamDestroy_v2(CUstream s) { free((void *)s); return CUDA_SUCCESS; }
API cuStreamSynchronize(CUstream) { return CUDA_SUCCESS; }
API cuStreamQuery(CUstream) { return CUDA_SUCCESS; }
API cuStreamWaitEvent(CUstream, CUevent, unsigned) { return CUDA_SUCCESS; }
API cuEventCreate(CUevent *e, unsigned) { *e = (CUevent)calloc(1, sizeof(timespec)); return CUDA_SUCCESS; }
API cuEventDestroy_v2(CUevent e) { free((void *)e); return CUDA_SUCCESS; }
API cuEventRecord(CUevent e, CUstream) { clock_gettime(CLOCK_MONOTONIC, (timespec *)e); return CUDA_SUCCESS; }
API cuEventSynchronize(CUevent) { return CUDA_SUCCESS; }
