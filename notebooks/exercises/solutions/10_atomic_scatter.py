"""A solution of exercise 10."""

SOURCE = r"""
extern "C" __global__ void atomic_scatter(const float* grad_output, const float* offset, const float* mask,
                                          float* grad_input,
                                          int height, int width, int channels, int groups, float scale) {
    int n = blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= height * width * channels) return;
    int pixel = n / channels, c = n % channels;
    int group = c / (channels / groups);
    for (int k = 0; k < 9; ++k) {
        int tap = (pixel * groups + group) * 9 + k;
        float x = pixel % width + scale * (k / 3 - 1 + offset[2 * tap]);
        float y = pixel / width + scale * (k % 3 - 1 + offset[2 * tap + 1]);
        int y0 = int(floorf(y)), x0 = int(floorf(x));
        float ly = y - y0, lx = x - x0;
        for (int corner = 0; corner < 4; ++corner) {
            int row = y0 + corner / 2, column = x0 + corner % 2;
            if (row < 0 || row >= height || column < 0 || column >= width) continue;
            float weight = (corner / 2 ? ly : 1 - ly) * (corner % 2 ? lx : 1 - lx);
            atomicAdd(&grad_input[(row * width + column) * channels + c], weight * mask[tap] * grad_output[n]);
        }
    }
}
"""
