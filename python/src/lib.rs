use onnx_bsr as _;
