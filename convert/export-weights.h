/*
 * convert/export-weights.h - an encoder's weights as a Hugging Face folder has them
 */
#ifndef CONVERT_EXPORT_WEIGHTS_H
#define CONVERT_EXPORT_WEIGHTS_H

#include "models/backbones/architecture.h"

/* Writes a backbone's parameters to a safetensors file, F32, by its architecture's rows: turned and fused as the folder
 * has them, and zeros for what the folder needs and a model file may lack. With stream >= 0 the prunable matrices are
 * W ⊙ M of that stream's masks. `settings` are the backbone's, with every size known. */
scbm_status cbm_hf_export_weights(const cbm_backbone *backbone, const cbm_backbone *settings, int stream,
                                  const char *path, const scbm_hooks *hooks);

#endif
