// device.h - to a device and back, for the tests whose kernels take plain arrays.
#ifndef DEVICE_H
#define DEVICE_H
#include "cuda_on_cpu.h"
#include <math.h>
#include <vector>

template <class T> static T *upload(const std::vector<T> &host) {
    T *device = nullptr;
    cudaMalloc(&device, host.size() * sizeof(T));
    cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice);
    return device;
}
template <class T> static std::vector<T> download(const T *device, size_t n) {
    std::vector<T> host(n);
    cudaMemcpy(host.data(), device, n * sizeof(T), cudaMemcpyDeviceToHost);
    return host;
}
template <class T> static std::vector<T> download_and_free(T *device, size_t n) {
    std::vector<T> host = download(device, n);
    cudaFree(device);
    return host;
}
inline std::vector<float> numbers(size_t n, float scale) {
    std::vector<float> x(n);
    for (size_t i = 0; i < n; i++) x[i] = scale * sinf(0.7f * (float)i + 0.1f);
    return x;
}
#endif
