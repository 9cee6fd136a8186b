"""A solution of exercise 8."""

SOURCE = r"""
__device__ float sample(const float* input, int height, int width, int channels, int c, float y, float x) {
    const int y0 = int(floorf(y)), x0 = int(floorf(x));
    const float ly = y - y0, lx = x - x0;
    float value = 0;
    for (int dy = 0; dy < 2; ++dy) {
        for (int dx = 0; dx < 2; ++dx) {
            const int row = y0 + dy, column = x0 + dx;
            if (row < 0 || row >= height || column < 0 || column >= width) continue;
            const float weight = (dy ? ly : 1 - ly) * (dx ? lx : 1 - lx);
            value += weight * input[(row * width + column) * channels + c];
        }
    }
    return value;
}

extern "C" __global__ void first_kernel(const float* input, const float* offset, const float* mask, float* output,
                                        int height, int width, int channels, int groups, float scale) {
    const int n = blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= height * width * channels) return;
    const int pixel = n / channels, c = n % channels;
    const int group = c / (channels / groups);

    float sum = 0;
    for (int k = 0; k < 9; ++k) {
        const int tap = (pixel * groups + group) * 9 + k;
        const float x = pixel % width + scale * (k / 3 - 1 + offset[2 * tap]);
        const float y = pixel / width + scale * (k % 3 - 1 + offset[2 * tap + 1]);
        sum += mask[tap] * sample(input, height, width, channels, c, y, x);
    }
    output[n] = sum;
}
"""
