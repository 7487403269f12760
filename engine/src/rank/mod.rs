//! The ranker: ONNX models through tract.
