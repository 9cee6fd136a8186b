"""A solution of exercise 9."""

SOURCE = r"""
__device__ float sample(const float* input, int height, int width, int channels, int c, float y, float x) {
    int y0 = int(floorf(y)), x0 = int(floorf(x));
    float ly = y - y0, lx = x - x0, value = 0;
    for (int corner = 0; corner < 4; ++corner) {
        int row = y0 + corner / 2, column = x0 + corner % 2;
        if (row < 0 || row >= height || column < 0 || column >= width) continue;
        float weight = (corner / 2 ? ly : 1 - ly) * (corner % 2 ? lx : 1 - lx);
        value += weight * input[(row * width + column) * channels + c];
    }
    return value;
}

extern "C" __global__ void shared_taps(const float* input, const float* offset, const float* mask, float* output,
                                       int height, int width, int channels, int groups, float scale) {
    __shared__ float y[36], x[36], m[36];  // of tap k of group g: number 9 * g + k
    int pixel = blockIdx.x, c = threadIdx.x;
    for (int t = threadIdx.x; t < 9 * groups; t += blockDim.x) {
        int tap = pixel * 9 * groups + t, k = t % 9;
        x[t] = pixel % width + scale * (k / 3 - 1 + offset[2 * tap]);
        y[t] = pixel / width + scale * (k % 3 - 1 + offset[2 * tap + 1]);
        m[t] = mask[tap];
    }
    __syncthreads();
    if (c >= channels) return;
    int first = c / (channels / groups) * 9;
    float sum = 0;
    for (int t = first; t < first + 9; ++t) sum += m[t] * sample(input, height, width, channels, c, y[t], x[t]);
    output[pixel * channels + c] = sum;
}
"""
