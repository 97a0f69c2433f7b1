import torch


def set_weight_attrs(weight, attrs):
    for key, value in attrs.items():
        assert not hasattr(weight, key), f"overwriting {key}"
        setattr(weight, key, value)


class AscendLinearMethod:
    def __init__(self, scheme):
        self.quant_method = scheme

    def create_weights(self, layer, input_size_per_partition, output_partition_sizes, input_size, output_size, params_dtype, **extra_weight_attrs):
        for name, tensor in self.quant_method.get_weight(input_size_per_partition, sum(output_partition_sizes), params_dtype).items():
            parameter = torch.nn.Parameter(tensor, requires_grad=False)
            set_weight_attrs(parameter, {"input_dim": 1, "output_dim": 0})
            layer.register_parameter(name, parameter)
            set_weight_attrs(parameter, extra_weight_attrs)

    def process_weights_after_loading(self, layer):
        self.quant_method.process_weights_after_loading(layer)

    def apply(self, layer, x, bias=None):
        return self.quant_method.apply(layer, x, bias, 0)


class AscendFusedMoEMethod:
    def __init__(self, scheme):
        self.quant_method = scheme

    def create_weights(self, layer, num_experts, hidden_size, intermediate_size_per_partition, params_dtype, **extra_weight_attrs):
        for name, tensor in self.quant_method.get_weight(num_experts, intermediate_size_per_partition, hidden_size, params_dtype).items():
            parameter = torch.nn.Parameter(tensor, requires_grad=False)
            layer.register_parameter(name, parameter)
            set_weight_attrs(parameter, extra_weight_attrs)

    def process_weights_after_loading(self, layer):
        self.quant_method.process_weights_after_loading(layer)
