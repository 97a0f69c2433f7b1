import abc


class AscendLinearScheme(abc.ABC):
    @abc.abstractmethod
    def get_weight(self, input_size, output_size, params_dtype): ...

    @abc.abstractmethod
    def apply(self, layer, x, bias=None, tp_rank=0): ...

    def process_weights_after_loading(self, layer):
        return
