_SCHEME_REGISTRY = {}


def register_scheme(quant_type, layer_type):
    def decorator(cls):
        _SCHEME_REGISTRY[quant_type, layer_type] = cls
        return cls

    return decorator


def get_scheme_class(quant_type, layer_type):
    return _SCHEME_REGISTRY.get((quant_type, layer_type))
