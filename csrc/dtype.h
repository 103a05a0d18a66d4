// Types of the numbers in a tensor.
#pragma once

namespace emorec {

enum class Dtype { float32, float64, bfloat16 };

}  // namespace emorec
