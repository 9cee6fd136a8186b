// DCNv3 forward, rung 5: two channels an instruction, in half precision.
//
// What changed    For arrays of half only. Corners are interpolated in half2, two channels at a time and without a
//                 conversion; what comes out is converted, modulated and summed over the taps in float. A record is 16
//                 bytes, one load from shared memory.
// How exact       With u = 2^-11, the error of rounding once: each weight is rounded (u), v00 and v01 are summed in half
//                 (2 u), v10 and v11 likewise, and the output is rounded (u). The error is at most 4 u times the sum of
//                 the sizes of all that is summed. One chain over the four corners would save conversions and cost 2 u.
//                 Weights are not modulated before they are rounded: an interpolated value then is larger than the
//                 pixels by a rounding at most, and overflows only next to the largest half.
// What bounds it  Instructions, 743 a thread on sm_90 instead of 895, and the loads of the corners from the first-level
//                 cache: by estimate about equally.
// How to run it   as rung 4, with images of less than 2 GB
#include "records.cuh"

struct __align__(16) Record {
    __half2 upper, lower;  // weights of (v00, v01) and (v10, v11)
    float modulation;
    int place;             // 16 * cell + there, the cell in packs
};

// sum += the tap's sample of 8 channels.
__device__ __forceinline__ void add_record(float sum[8], const Packs<__half>& image, const Record& tap) {
    const auto corner = [&](int i) { return image.corner(tap.place >> 4, tap.place & 15, i); };
    const auto pair = [](const Pack<__half, 8>& v, int i) { return __halves2half2(v.v[2 * i], v.v[2 * i + 1]); };
    const Pack<__half, 8> v00 = corner(0), v01 = corner(1), v10 = corner(2), v11 = corner(3);
    const __half2 w00 = __low2half2(tap.upper), w01 = __high2half2(tap.upper);
    const __half2 w10 = __low2half2(tap.lower), w11 = __high2half2(tap.lower);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 upper = __half22float2(__hfma2(pair(v01, i), w01, __hmul2(pair(v00, i), w00)));
        const float2 lower = __half22float2(__hfma2(pair(v11, i), w11, __hmul2(pair(v10, i), w10)));
        sum[2 * i] += tap.modulation * (upper.x + lower.x);
        sum[2 * i + 1] += tap.modulation * (upper.y + lower.y);
    }
}

template <typename T, typename A, int ROWS, bool SOFTMAX>
__global__ void __launch_bounds__(128)
dcnv3_forward_half(const T* __restrict__ input, const T* __restrict__ offset, const T* __restrict__ mask,
                   const int* __restrict__ taps, const A* __restrict__ residual, T* __restrict__ output,
                   DCNv3Shape shape) {
    __shared__ Record records[USUAL * ROWS];
    const int n = int(blockIdx.z * gridDim.y + blockIdx.y);
    if (n >= shape.batch) return;  // the block as a whole: nobody waits for it at the barrier
    const unsigned first = blockIdx.x * ROWS, rows = min(shape.rows() - first, unsigned(ROWS));
    const unsigned vectors = unsigned(shape.group_width / 8);
    const int packs = int(shape.channels() / 8);  // of a pixel

    const auto make = [&](unsigned r, int k, const Tap<A>& tap) {
        A weight[4];
        corner_weights(tap.ly, tap.lx, A(1), weight);
        records[k * ROWS + r] = {__floats2half2_rn(weight[0], weight[1]), __floats2half2_rn(weight[2], weight[3]),
                                 tap.modulation, tap.pixel * packs * 16 + tap.there};
    };
    make_records<SOFTMAX>(shape, offset, mask, taps, residual, n, first, rows, make);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < rows * vectors; i += blockDim.x) {
        const unsigned r = i / vectors, item = first * vectors + i;
        const unsigned channel = item % (unsigned(shape.groups) * vectors) * 8;
        const Packs<T> image = packs_of(input, shape, n, channel);
        A sum[8] = {};
#pragma unroll
        for (int k = 0; k < USUAL; ++k) add_record(sum, image, records[k * ROWS + r]);
        store_pack<8>(output + ((long long)n * shape.rows() * vectors + item) * 8, sum);
    }
}
