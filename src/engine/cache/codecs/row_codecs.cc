#include "engine/cache/codecs/row_codecs.h"

#include "engine/cache/codecs/fp8_codec.h"
#include "engine/cache/codecs/int8_codec.h"

namespace kvtool::engine {

std::unique_ptr<RowCodec> make_row_codec(const cache::CacheSpec& spec) {
  if (spec.policy() == "int8") return std::make_unique<Int8Codec>();
  if (spec.policy() != "fp8") return nullptr;
  return std::make_unique<Fp8Codec>(
      Fp8Codec::Settings{spec.word("type") == "e4m3" ? at::kFloat8_e4m3fn : at::kFloat8_e5m2,
                         spec.word("per") == "head", spec.scale("scale")});
}

}  // namespace kvtool::engine
