"""A solution of exercise 11; a line of each bug: (20, 25)."""

SOURCE = r"""
extern "C" __global__ void two_gradients(const float* grad_output, const float* input, const float* offset,
                                         const float* mask, float* grad_input, float* grad_mask,
                                         int height, int width, int channels, float scale) {
    __shared__ float part[64];
    int pixel = blockIdx.x, c = threadIdx.x;
    float g = grad_output[pixel * channels + c];
    for (int k = 0; k < 9; ++k) {
        int tap = pixel * 9 + k;
        float x = pixel % width + scale * (k / 3 - 1 + offset[2 * tap]);
        float y = pixel / width + scale * (k % 3 - 1 + offset[2 * tap + 1]);
        int y0 = int(floorf(y)), x0 = int(floorf(x));
        float ly = y - y0, lx = x - x0, value = 0;
        for (int corner = 0; corner < 4; ++corner) {
            int row = y0 + corner / 2, column = x0 + corner % 2;
            if (row < 0 || row >= height || column < 0 || column >= width) continue;
            float weight = (corner / 2 ? ly : 1 - ly) * (corner % 2 ? lx : 1 - lx);
            int i = (row * width + column) * channels + c;
            value += weight * input[i];
            atomicAdd(&grad_input[i], weight * mask[tap] * g);
        }
        part[c] = value * g;
        for (int step = channels / 2; step > 0; step /= 2) {
            __syncthreads();
            if (c < step) part[c] += part[c + step];
        }
        if (c == 0) grad_mask[tap] = part[0];
        __syncthreads();  // part is free for the next tap
    }
}
"""
