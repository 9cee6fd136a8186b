"""dcnlab: understand, check and run deformable convolution."""
