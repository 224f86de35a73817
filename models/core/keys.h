/*
 * models/core/keys.h - names of the keys and tensors that are ours in a model file
 */
#ifndef CBM_KEYS_H
#define CBM_KEYS_H

/* Names of keys and tensors that are ours in a model file. */
#define CBM_FILE_FORMAT 2 /* since version 0.2.0 */
#define CBM_KEY_FORMAT "sparsecbm.format"
#define CBM_KEY_FORMAT_1 "sparsecbm.version" /* what versions 0.1.x wrote: 1 */
#define CBM_KEY_MODE "sparsecbm.mode"
#define CBM_KEY_POOLING                                                                                                \
    "sparsecbm.pooling" /* what the heads were trained with: "mean", "first", "last" or "attention" */
#define CBM_KEY_CONCEPTS "sparsecbm.concepts"
#define CBM_KEY_GROUPS "sparsecbm.concept.groups"
#define CBM_KEY_CLASSES "sparsecbm.concept.classes"
#define CBM_KEY_LABELS "sparsecbm.labels"
#define CBM_KEY_TRAIN "sparsecbm.train."

#define CBM_CONCEPT_WEIGHT "sparsecbm.concept.weight"
#define CBM_CONCEPT_BIAS "sparsecbm.concept.bias"
#define CBM_LABEL_WEIGHT "sparsecbm.label.weight"
#define CBM_LABEL_BIAS "sparsecbm.label.bias"
#define CBM_CONCEPT_MEAN "sparsecbm.concept.mean"
#define CBM_GOLD_MEANS "sparsecbm.concept.gold_means"
#define CBM_GOLD_COUNTS "sparsecbm.concept.gold_counts"

#endif
